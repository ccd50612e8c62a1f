"""`--mode=eval`: the accuracy of a run's best checkpoint, or of a packed file, on the test set."""

import os

from ml_collections import ConfigDict


def evaluate(config: ConfigDict, workdir: str | os.PathLike[str]) -> dict[str, float]:
    """Measures `config.packed`, see `evaluate_packed`, or without one the run in `workdir`, see `evaluate_checkpoint`."""
    from qresnet_jax.train.evaluator import evaluate_checkpoint, evaluate_packed

    return evaluate_packed(config) if config.packed else evaluate_checkpoint(config, workdir)
