"""`--mode=predict`: classifies image files with a trained run or with a packed file."""

import dataclasses
import logging
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import ConfigError, DataError
from qresnet_jax.pixels import normalize
from qresnet_jax.ship.load import load_packed
from qresnet_jax.train.evaluator import restore_run

log = logging.getLogger("qresnet_jax")

TOP = 3  # the number of classes shown for each image

# The function from uint8 images [N, H, W, C] to logits [N, classes]; (H, W, C); and the names of the classes.
Classifies = tuple[Callable[[np.ndarray], jax.typing.ArrayLike], tuple[int, int, int], Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Picture:
    """Holds the pixels of an image file in the network's shape, and how they were made."""

    pixels: np.ndarray  # uint8 [H, W, C]
    how: str  # such as "30x20 L -> middle 20x20 -> 8x8 L"


def read_picture(path: str | os.PathLike[str], shape: tuple[int, int, int]) -> Picture:
    """Reads an image file of any size and mode.

    Transparent parts become black, and 16 bits are reduced to 8. The largest part in the middle that has the network's
    proportions is cut out and resized with antialiasing.

    Args:
      path: the path of a file that Pillow can read.
      shape: `(height, width, channels)` of the network's images, with 1 or 3 channels.

    Raises:
      DataError: there is no such file, or it cannot be read as an image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    height, width, channels = shape
    try:
        with Image.open(path) as file:
            file.load()
            picture = ImageOps.exif_transpose(file)  # a camera stores how it was held
    except FileNotFoundError as error:
        raise DataError(
            f"config.predict.images: there is no file {path}; give paths from the current directory"
        ) from error
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(
            f"config.predict.images: {path} cannot be read as an image ({error}): give a PNG, a JPEG, or another "
            "format that Pillow reads"
        ) from error
    steps = [f"{picture.width}x{picture.height} {picture.mode}"]

    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture, np.float64)
        depth = 65535 if picture.mode.startswith("I") else max(values.max(), 1)
        picture = Image.fromarray(np.clip(np.round(values * (255 / depth)), 0, 255).astype(np.uint8))
    if "A" in picture.getbands() or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    picture = picture.convert("L" if channels == 1 else "RGB")

    scale = min(picture.width / width, picture.height / height)
    cut = (max(round(scale * width), 1), max(round(scale * height), 1))
    left, top = (picture.width - cut[0]) // 2, (picture.height - cut[1]) // 2
    if cut != picture.size:
        steps.append(f"middle {cut[0]}x{cut[1]}")
        picture = picture.crop((left, top, left + cut[0], top + cut[1]))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    steps.append(f"{width}x{height} {picture.mode}")
    return Picture(np.asarray(picture, np.uint8).reshape(shape), " -> ".join(steps))


def predict_files(config: ConfigDict, workdir: str | os.PathLike[str]) -> list[list[tuple[str, float]]]:
    """Logs the most probable classes of the files in `config.predict.images`, and how each image was resized.

    Args:
      config: the config of the run. `predict.images` is a comma-separated list of files; `packed`, if not empty, is a
        packed file or the name of a zoo model to use instead of the run.
      workdir: the directory of the run; it is only read.

    Returns:
      For each file the `TOP` classes with their probabilities, the most probable first.

    Raises:
      UserError: no files are given, or one of them cannot be read, or there is no checkpoint or packed file.
    """
    configs.validate(config)
    names = [name.strip() for name in config.predict.images.split(",") if name.strip()]
    if not names:
        raise ConfigError(
            "config.predict.images is empty: give files, as in --config.predict.images=a.png,b.png"
        )
    missing = [name for name in names if not pathlib.Path(name).is_file()]
    if missing:
        raise DataError(
            f"config.predict.images: there is no file {missing[0]}; give paths from the current directory"
        )
    logits_of, shape, class_names = (
        _from_packed(config.packed) if config.packed else _from_run(config, workdir)
    )
    pictures = [read_picture(name, shape) for name in names]

    probabilities = np.asarray(jax.nn.softmax(logits_of(np.stack([p.pixels for p in pictures]))))
    results = []
    for name, picture, row in zip(names, pictures, probabilities, strict=True):
        best = [(class_names[i], float(row[i])) for i in np.argsort(-row)[:TOP]]
        log.info("%s (%s): %s", name, picture.how, ", ".join(f"{c} {p:.1%}" for c, p in best))
        results.append(best)
    return results


def _from_run(config: ConfigDict, workdir: str | os.PathLike[str]) -> Classifies:
    run = restore_run(config, workdir)
    mean, model = jnp.asarray(run.meta["mean"]), run.model()
    return (
        lambda pixels: model(normalize(pixels, mean)),
        tuple(run.meta["image_shape"]),
        run.meta["class_names"],
    )


def _from_packed(path: str | os.PathLike[str]) -> Classifies:
    packed = load_packed(path)
    height, width, channels = packed.network.image_shape
    if height is None or width is None:
        raise DataError(
            f"{path} takes images of any size, so the size to cut pictures to is not known: use load_packed in Python"
        )
    names = packed.class_names or [f"class {i}" for i in range(packed.network.classes)]
    return lambda pixels: packed.logits(pixels) * packed.logit_scale, (height, width, channels), names
