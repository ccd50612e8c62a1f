"""Writes networks as WebAssembly for browsers, with the C code of the profile `fast`."""
