"""The JAX engine, and what it exports as StableHLO."""
