"""The checkpoints of a run, in its locked directory: how they are written and verified, and how a training starts from them."""
