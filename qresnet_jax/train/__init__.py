"""Training: the loop, its step, the optimizer, checkpoints, and the files that are written while it runs."""
