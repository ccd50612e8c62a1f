"""The networks that `create_model` builds, and the rules for their depths and widths."""
