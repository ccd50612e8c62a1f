"""Training: the loop, its step, the optimizer, checkpoints and what is written while it runs."""
