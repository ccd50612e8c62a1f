"""Writes networks as C99, in one of two profiles, and compiles them for this machine.

`common.h` and `classify.h` are C code of both profiles; each profile has its own beside its Python code. All
headers are C as they stand. An export includes those that a network needs, and its `model.c` has their text
in place of the includes.
"""
