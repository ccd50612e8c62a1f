"""The profile `fast`: bit planes and vectors."""
