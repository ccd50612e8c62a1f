"""The profile `fast` of the C export, which computes with bit planes in vectors."""
