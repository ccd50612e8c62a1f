"""From a trained run to a file that ships, measured before it is written."""

import logging
import pathlib

from qresnet_jax import config as configs
from qresnet_jax.data import load_dataset
from qresnet_jax.deploy import agreement
from qresnet_jax.deploy.packed import save_packed
from qresnet_jax.train.evaluate import fold_run, restore_run

log = logging.getLogger("qresnet_jax")


def export_run(config, workdir) -> pathlib.Path:
    """Folds a run's best checkpoint to integers, measures it on the whole test set, and writes it.

    Args:
      config: that of the run; `export.path` is the file, `WORKDIR/model.safetensors` by default.
      workdir: of the run.

    Returns:
      The file.

    Raises:
      UserError: no checkpoint, no integer form, or an integer network that falls short of the simulation; then nothing is
        written.
    """
    configs.validate(config)
    run = restore_run(config, workdir)
    model, network = run.model(), fold_run(run)
    dataset = load_dataset(config.data)
    configs.validate_dataset(config, dataset)
    images, labels = dataset.test
    measured = agreement.measure(model, network, images, labels)
    log.info("integer network, test set: %s", measured)
    agreement.require(measured, model, network, images)
    path = pathlib.Path(config.export.path or pathlib.Path(workdir) / "model.safetensors")
    save_packed(network, path)
    log.info("wrote %s, %d bytes", path, path.stat().st_size)
    return path
