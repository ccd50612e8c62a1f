"""The C99 sources, in two profiles, and the engine that compiles them."""
