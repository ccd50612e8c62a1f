"""`--mode=predict`: classifies image files with a trained run or with a packed file."""

import dataclasses
import logging
import os
import warnings
from collections.abc import Callable, Sequence
from typing import IO

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.commands.image_files import find_images
from qresnet_jax.data.pictures import PictureError, decode, fit, unreadable
from qresnet_jax.errors import DataError
from qresnet_jax.ship.fold import why_float
from qresnet_jax.ship.jax.stablehlo import simulation
from qresnet_jax.ship.load import PackedNetwork, load_packed
from qresnet_jax.system.files import as_path
from qresnet_jax.train.evaluator import fold_run, restore_run

log = logging.getLogger("qresnet_jax")

TOP = 3  # the number of classes shown for each image
BATCH = 128  # images that are classified at once
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's names, by the number of channels

# The function from uint8 images [N, H, W, C] to logits [N, classes]; (H, W, C); and the names of the classes.
Classifies = tuple[Callable[[np.ndarray], jax.typing.ArrayLike], tuple[int, int, int], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """Holds the pixels of an image file in the network's shape, and how they were made."""

    pixels: np.ndarray  # uint8 [H, W, C]
    how: str  # such as "30x20 L -> middle 20x20 -> 8x8 L"


def read_picture(path: str | os.PathLike[str], shape: tuple[int, int, int]) -> Picture:
    """Reads an image file of any size and mode.

    It is decoded as `pictures.decode` describes, and the largest part in the middle that has the network's proportions is
    cut out and resized with antialiasing.

    Args:
      path: the path of a file that Pillow can read.
      shape: `(height, width, channels)` of the network's images, with 1 (grey), 3 (RGB) or 4 (RGBA) channels.

    Raises:
      DataError: there is no such file, or it cannot be read as an image, or it has values that are no brightness; or the
        network takes another number of channels.
    """
    height, width, _ = shape
    mode = _mode(shape)
    try:
        with warnings.catch_warnings(action="ignore"), _opened(path) as stream:
            picture, was = decode(stream, mode)
    except FileNotFoundError as error:
        raise DataError(
            f"config.predict.images: there is no file {path}; give paths from the current directory"
        ) from error
    except PictureError as error:
        raise DataError(f"config.predict.images: {path} {error}") from error
    picture, done = fit(picture, width, height)
    how = " -> ".join([was, *done, f"{width}x{height} {picture.mode}"])
    return Picture(np.asarray(picture, np.uint8).reshape(shape), how)


def _opened(path: str | os.PathLike[str]) -> IO[bytes]:
    try:
        return open(as_path(path), "rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(error) from error


def _mode(shape: tuple[int, int, int]) -> str:
    """Returns Pillow's name of the colours that a network takes.

    Raises:
      DataError: image files have no such colours.
    """
    if shape[2] not in _MODES:
        raise DataError(
            f"this network takes images of {'x'.join(map(str, shape))}, with {shape[2]} channels, but image files give 1 "
            "(grey), 3 (RGB) or 4 (RGBA): give it arrays in Python, with load_packed(...).predict"
        )
    return _MODES[shape[2]]


def predict_files(config: ConfigDict, workdir: str | os.PathLike[str]) -> list[list[tuple[str, float]]]:
    """Logs the most probable classes of the files in `config.predict.images`, and how each image was resized.

    Args:
      config: the config of the run. `predict.images` names files, directories and patterns, see `find_images`;
        `packed`, if not empty, is a packed file or the name of a zoo model to use instead of the run.
      workdir: the directory of the run; it is only read.

    Returns:
      For each file the `TOP` classes with their probabilities, the most probable first.

    Raises:
      UserError: no files are given, or one of them cannot be read, or there is no checkpoint or packed file, or the
        network takes images of other channels than files have.
    """
    configs.validate(config)
    files = find_images(config.predict.images)
    logits_of, shape, class_names = (
        _from_packed(config.packed) if config.packed else _from_run(config, workdir)
    )
    _mode(shape)
    pictures = [read_picture(file, shape) for file in files]

    results = []
    for start in range(0, len(files), BATCH):
        batch = pictures[start : start + BATCH]
        probabilities = np.asarray(jax.nn.softmax(logits_of(np.stack([p.pixels for p in batch]))))
        for file, picture, row in zip(files[start:], batch, probabilities, strict=False):
            best = [(class_names[i], float(row[i])) for i in np.argsort(-row)[:TOP]]
            log.info("%s (%s): %s", file, picture.how, ", ".join(f"{_printable(c)} {p:.1%}" for c, p in best))
            results.append(best)
    return results


def _printable(name: str) -> str:
    """Returns a name with escapes for what is not to be printed: a packed file may come from anybody."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def _from_run(config: ConfigDict, workdir: str | os.PathLike[str]) -> Classifies:
    run = restore_run(config, workdir)
    shape, names = tuple(run.meta["image_shape"]), run.meta["class_names"]
    model = run.model()
    if why_float(model) is not None:
        simulated = simulation(model, run.meta["mean"])
        return lambda pixels: simulated(jnp.asarray(pixels)), shape, names
    packed = PackedNetwork(fold_run(run), nbytes=0)  # what ships, as in validation and test
    return lambda pixels: packed.logits(pixels) * packed.logit_scale, shape, names


def _from_packed(path: str | os.PathLike[str]) -> Classifies:
    packed = load_packed(path)
    height, width, channels = packed.network.image_shape
    if height is None or width is None:
        raise DataError(
            f"{path} takes images of any size, so the size to cut pictures to is not known: use load_packed in Python"
        )
    names = packed.class_names or [f"class {i}" for i in range(packed.network.classes)]
    return lambda pixels: packed.logits(pixels) * packed.logit_scale, (height, width, channels), names
