"""`--mode=eval`: measures a run's best checkpoint, or a packed file, on the test set."""

import os

from ml_collections import ConfigDict


def evaluate(config: ConfigDict, workdir: str | os.PathLike[str]) -> dict[str, float]:
    """Measures the packed file in `config.packed`, or, if that is empty, the run in `workdir`.

    See `evaluate_packed` and `evaluate_checkpoint` in `qresnet_jax.train.evaluator` for what is returned and raised.
    """
    from qresnet_jax.train.evaluator import evaluate_checkpoint, evaluate_packed
    from qresnet_jax.train.processes import ending_together

    if config.packed:
        return evaluate_packed(config)
    with ending_together(config):
        return evaluate_checkpoint(config, workdir)
