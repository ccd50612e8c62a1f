"""`--mode=export`: turns a trained run into files that ship. The written files are run before they are kept."""

import functools
import logging
import os
import pathlib
import tempfile
from collections.abc import Callable

import jax
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.data import ImageDataset, StreamedDataset, check_dataset, load_dataset
from qresnet_jax.errors import ConfigError, DataError
from qresnet_jax.ship import reference, verify
from qresnet_jax.ship.c.writer import check_prefix
from qresnet_jax.ship.formats import C_OPTIONS, ENDINGS, check_path, check_programs, write_network
from qresnet_jax.ship.load import load_packed
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.system.files import as_path, write_all
from qresnet_jax.train.evaluator import TrainedRun, check_data_of_run, fold_run, restore_run
from qresnet_jax.train.feed import resident_bytes
from qresnet_jax.train.parallel import device_mesh

log = logging.getLogger("qresnet_jax")

_ANY_SIZE = 32  # height and width of the images that check a network which takes images of any size


def export(config: ConfigDict, workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Exports the packed file in `config.packed`, or the run if that is empty: see `export_packed`, `export_run`."""
    return export_packed(config, workdir) if config.packed else export_run(config, workdir)


def export_run(
    config: ConfigDict, workdir: str | os.PathLike[str], *, dataset: ImageDataset | None = None
) -> list[pathlib.Path]:
    """Folds a run's best checkpoint to integers, writes it, and checks the files on images of the test set.

    Where the test set cannot be loaded, as that of a run on arrays, the files are checked on random images.

    Args:
      config: the config of the run; `export.format` says what is written, and `export.path` where, by default in
        `workdir`.
      workdir: the directory of the run.
      dataset: arrays whose test images are taken, instead of those of the set that the run's config names.

    Returns:
      The paths of the files.

    Raises:
      UserError: there is no checkpoint, the data set is another one than that of the run, the network has no integer form, or a written file computes
        something else and is not kept.
    """
    configs.validate(config)
    path = _path(config.export, workdir)
    run = restore_run(config, workdir)
    config = run.config
    model, network = run.model(), fold_run(run)
    images, kind = _images_of_run(run, network, dataset)
    integers = reference.logits(network, images)
    check = functools.partial(_checked, format=config.export.format, images=images, kind=kind)
    if config.export.format == "qonnx":  # the trained layers themselves
        write = functools.partial(_write_layers, model, network)
        return _keep(check(write, path, expected=integers * network.logit_scale))
    contents = check(functools.partial(_write_integers, network, config.export), path, expected=integers)
    if config.export.format == "stablehlo":
        from qresnet_jax.ship.jax.stablehlo import simulation

        write = functools.partial(_write_simulation, model, network)
        path = path.with_name(f"{path.stem}.simulation{path.suffix}")
        contents |= check(write, path, expected=np.asarray(jax.jit(simulation(model, network.mean))(images)))
    return _keep(contents)


def export_packed(config: ConfigDict, workdir: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Writes a packed file in another format, and checks it on random images.

    A packed file contains no simulation, so what is written is compared with the logits of the packed file itself.

    Args:
      config: `packed` is the path of the file or the name of a zoo model; `export` is as in `export_run`.
      workdir: the directory for the new file, unless `export.path` names the file.

    Returns:
      The paths of the files.

    Raises:
      UserError: there is no such file, the format needs the trained run, or a written file computes something else
        and is not kept.
    """
    configs.validate(config)
    if config.export.format == "qonnx":
        raise ConfigError(
            "config.export.format=qonnx needs a trained run, not a packed file: leave config.packed empty, or choose "
            "the format onnx"
        )
    path, network = _path(config.export, workdir), load_packed(config.packed, "numpy").network
    images = _random_images(network)
    contents = _checked(
        functools.partial(_write_integers, network, config.export),
        path,
        format=config.export.format,
        images=images,
        expected=reference.logits(network, images),
        kind="random images",
    )
    return _keep(contents)


def _images_of_run(
    run: TrainedRun, network: IntegerNetwork, dataset: ImageDataset | None
) -> tuple[np.ndarray, str]:
    """Returns the images to check the files of a run on, and what messages call them."""
    data: ImageDataset | StreamedDataset
    if dataset is not None:
        data = check_dataset(dataset)
    else:
        try:
            data = load_dataset(run.config.data, resident_bytes(device_mesh()))
        except DataError as error:
            log.info("the files are checked on random images, as the test set cannot be loaded: %s", error)
            return _random_images(network), "random images"
    configs.validate_dataset(run.config, data)
    check_data_of_run(run, data)
    return data.test.first(verify.IMAGES), "test images"


def _random_images(network: IntegerNetwork) -> np.ndarray:
    shape = [size or _ANY_SIZE for size in network.image_shape]
    return np.random.default_rng(0).integers(0, 256, (verify.IMAGES, *shape), np.uint8)


def _path(export: ConfigDict, workdir: str | os.PathLike[str]) -> pathlib.Path:
    ending = {**ENDINGS, "qonnx": ".qonnx.onnx"}[export.format]
    path = as_path(export.path) if export.path else as_path(workdir) / f"model{ending}"
    check_path(path, export.format)
    if export.format == "c":
        check_prefix(export.c_prefix)
    check_programs(export.format)
    return path


def _write_integers(network: IntegerNetwork, export: ConfigDict, path: pathlib.Path) -> list[pathlib.Path]:
    options = {name: export[name] for name in C_OPTIONS} if export.format == "c" else {}
    return write_network(network, path, export.format, **options)


def _write_layers(model: nnx.Module, network: IntegerNetwork, path: pathlib.Path) -> list[pathlib.Path]:
    from qresnet_jax.ship.onnx.qonnx import write_qonnx

    height, width, _ = _image_shape(network)
    mean, names = network.mean.tolist(), network.class_names
    write_qonnx(model, path, image_shape=(height, width), mean=mean, class_names=names)
    return [path]


def _write_simulation(model: nnx.Module, network: IntegerNetwork, path: pathlib.Path) -> list[pathlib.Path]:
    from qresnet_jax.ship.jax.stablehlo import simulation, write_stablehlo

    write_stablehlo(simulation(model, network.mean), path, _image_shape(network))
    return [path]


def _image_shape(network: IntegerNetwork) -> tuple[int, int, int]:
    height, width, channels = network.image_shape
    assert height is not None and width is not None  # a run knows the size of its images
    return height, width, channels


def _checked(
    write: Callable[[pathlib.Path], list[pathlib.Path]],
    path: pathlib.Path,
    *,
    format: str,
    images: np.ndarray,
    expected: np.ndarray,
    kind: str,
) -> dict[pathlib.Path, bytes]:
    """Writes files to a temporary directory, runs them, and returns them if they compute what they must.

    Args:
      write: writes to the path that it is given, and returns the paths of the files.
      path: the final path of the file, or of the directory of files.
      format, images, expected, kind: see `verify.check`.

    Returns:
      The content of each file by its final path.
    """
    with tempfile.TemporaryDirectory() as directory:
        aside = pathlib.Path(directory) / "files"
        written = write(aside)
        log.info(verify.check(written, format, images, expected, name=path.resolve().name, kind=kind))
        return {path / file.relative_to(aside): file.read_bytes() for file in written}


def _keep(contents: dict[pathlib.Path, bytes]) -> list[pathlib.Path]:
    """Writes all files or none, and returns their paths."""
    write_all(contents)
    for file, content in contents.items():
        log.info("wrote %s, %d bytes", file, len(content))
    return list(contents)
