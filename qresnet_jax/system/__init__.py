"""Helpers for files, the user's cache, config files, the process, and the machine."""
