"""Convolutions and batch norm with hand-written gradients; `cpu` and `gpu` have the forms that are fastest there."""
