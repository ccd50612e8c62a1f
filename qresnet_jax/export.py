"""From a trained run to files that ship, measured before they are written."""

import logging
import pathlib

import numpy as np

from qresnet_jax import config as configs
from qresnet_jax.data import load_dataset
from qresnet_jax.deploy import agreement
from qresnet_jax.deploy.formats import ENDINGS, write_network
from qresnet_jax.deploy.packed_network import load_packed
from qresnet_jax.errors import ConfigError
from qresnet_jax.train.evaluate import fold_run, restore_run

log = logging.getLogger("qresnet_jax")


def export_run(config, workdir) -> list[pathlib.Path]:
    """Folds a run's best checkpoint to integers, measures it on the whole test set, and writes it.

    Args:
      config: that of the run; `export.format` says what is written, `export.path` where, in `workdir` by default.
      workdir: of the run.

    Returns:
      The files.

    Raises:
      UserError: no checkpoint, no integer form, or an integer network that falls short of the simulation; then nothing is
        written.
    """
    configs.validate(config)
    run = restore_run(config, workdir)
    config = run.config
    model, network = run.model(), fold_run(run)
    dataset = load_dataset(config.data)
    configs.validate_dataset(config, dataset)
    images, labels = dataset.test
    measured = agreement.measure(model, network, images, labels)
    log.info("integer network, test set: %s", measured)
    agreement.require(measured, model, network, images)

    path, mean = _path(config.export, workdir), np.asarray(run.meta["mean"])
    if config.export.format == "qonnx":  # the trained layers themselves
        from qresnet_jax.deploy.qonnx_writer import write_qonnx

        write_qonnx(
            model, path, image_shape=images.shape[1:3], mean=mean.tolist(), class_names=dataset.class_names
        )
        files = [path]
    else:
        files = write_network(network, path, config.export.format, **_c_options(config.export))
    if config.export.format == "stablehlo":
        from qresnet_jax.deploy.stablehlo_writer import simulation, write_stablehlo

        files.append(path.with_name(f"{path.stem}.simulation{path.suffix}"))
        write_stablehlo(simulation(model, mean), files[-1], images.shape[1:])
    if config.export.format != "packed":
        log.info("measured was the integer network; the written file itself was not run")
    return _said(files)


def export_packed(config, workdir) -> list[pathlib.Path]:
    """Writes a packed file in another format, unmeasured: there is no simulation to compare with.

    Args:
      config: `packed` is the file, or a model of the zoo; `export` as in `export_run`.
      workdir: for the file, unless `export.path` names one.

    Returns:
      The files.

    Raises:
      UserError: no such file, or a format that needs the trained run.
    """
    configs.validate(config)
    if config.export.format == "qonnx":
        raise ConfigError(
            "config.export.format=qonnx is written from a trained run, not from a packed file: leave config.packed empty, "
            "or take format onnx"
        )
    packed = load_packed(config.packed, "numpy")
    path = _path(config.export, workdir)
    return _said(packed.export(path, config.export.format, **_c_options(config.export)))


def _c_options(export):
    return {"c_profile": export.c_profile, "c_prefix": export.c_prefix}


def _path(export, workdir):
    ending = {**ENDINGS, "qonnx": ".qonnx.onnx"}[export.format]
    return pathlib.Path(export.path or pathlib.Path(workdir) / f"model{ending}")


def _said(files):
    for path in files:
        log.info("wrote %s, %d bytes", path, path.stat().st_size)
    return files
