"""Convolutions and batch norm with gradients of their own, one module for each kind of device."""
