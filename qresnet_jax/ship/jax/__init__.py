"""The JAX engine, the StableHLO export, and a float network to compare speeds with."""
