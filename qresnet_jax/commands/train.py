"""`--mode=train`: trains or continues a run, and then reports on it."""

import logging
import os

from ml_collections import ConfigDict

from qresnet_jax.errors import UserError


def train(config: ConfigDict, workdir: str | os.PathLike[str]) -> None:
    """Trains the run in `workdir`, or continues it, and writes its report when it is complete.

    Args:
      config: see `qresnet_jax.config.default_config`.
      workdir: the directory of the run; it is made if necessary.

    Raises:
      UserError: see `qresnet_jax.train_and_evaluate`.
    """
    from qresnet_jax.commands.report import report
    from qresnet_jax.train.interrupt import StopSignal
    from qresnet_jax.train.loop import train_and_evaluate
    from qresnet_jax.train.parallel import cores_as_devices
    from qresnet_jax.train.processes import ending_together, join

    with ending_together(config):
        processes = join(config)
        cores_as_devices(config.batch_size // processes.count)
        metrics = train_and_evaluate(config, workdir)
        if "test_accuracy" not in metrics or not processes.is_first:  # interrupted, or another one reports
            return
        with StopSignal():
            try:
                report(config, workdir)
            except UserError as error:  # the training itself is done
                logging.getLogger("qresnet_jax").warning("no report: %s", error)
            except Exception:  # a fault of ours, which must not look like one of the training
                logging.getLogger("qresnet_jax").exception("no report, but the training is complete")
