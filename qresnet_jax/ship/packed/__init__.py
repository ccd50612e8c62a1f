"""The packed file, which stores one bit for each binary weight. docs/packed_format.md describes the format."""
