"""Files, the user's cache, and what the machine offers."""
