"""Folds trained networks to integers, stores and exports them, and runs them. It never imports `qresnet_jax.train`."""
