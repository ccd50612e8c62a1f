"""The networks that `create_model` builds, and the arithmetic of their depths and widths."""
