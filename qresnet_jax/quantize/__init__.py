"""Quantizers as pure functions with their surrogate gradients, and the hysteresis loop as an optax transformation."""
