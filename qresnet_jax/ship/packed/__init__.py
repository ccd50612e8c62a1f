"""The packed file: one bit for each binary weight, described in docs/packed_format.md."""
