"""Decodes image files with Pillow, upright and with 8 bits, and fits them to a size: for prediction and for training.

Pillow is imported where it is used, as most commands do not need it.
"""

import os
import pathlib
from typing import IO, TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

# Which files of a directory are images, by the endings of their names in lower case. Pillow reads more formats, but some
# of them only with other programs.
ENDINGS = (
    *(".avif", ".bmp", ".gif", ".ico", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pfm", ".pgm"),
    *(".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
)


def is_image(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file is taken for an image by the ending of its name."""
    return pathlib.PurePath(path).suffix.lower() in ENDINGS


class PictureError(Exception):
    """A file cannot be decoded, or a pixel has a value that is no brightness; the message follows the file's name."""


def decode(stream: IO[bytes], mode: str = "") -> tuple["Image.Image", str]:
    """Decodes an image file.

    Of several frames or pages, the first is read. A photograph is turned upright, as its EXIF data say. Transparent parts
    become black, unless the mode is RGBA. Values of more than 8 bits are reduced to 8; those of a file that does not say
    how many bits they have are taken as 0 to 1 (only fractions), 0 to 255 or 0 to 65535, the least range that holds them.

    Pillow warns about some files. Its warnings are for the caller to silence, since that is done for all threads at once.

    Args:
      stream: the file. Not its path: Pillow maps an uncompressed TIFF into memory then, and scrambles it if it is turned by
        a quarter.
      mode: "L", "RGB" or "RGBA"; "" takes L for pictures in shades of grey, also those with a palette of greys, and RGB
        for all others.

    Returns:
      The picture, and what it was in the file, such as "30x20 P, the first of 3 frames".

    Raises:
      PictureError: it is no image, or damaged, or has values that are no brightness.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(stream) as file:
            frames = getattr(file, "n_frames", 1)
            file.load()
            picture = ImageOps.exif_transpose(file)  # a camera stores how it was held
            was = f"{picture.width}x{picture.height} {picture.mode}"
            if picture.mode.startswith("I") or picture.mode == "F":
                picture = _in_eight_bits(picture, file.format)
            picture = _converted(picture, mode or ("L" if _is_grey(picture) else "RGB"))
    except PictureError:
        raise
    except Exception as error:  # whatever a decoder meets first in a damaged file
        raise unreadable(error) from error
    return picture, f"{was}, the first of {frames} frames" if frames > 1 else was


def unreadable(error: Exception) -> PictureError:
    """Returns the error to raise where a file cannot be read as an image."""
    from PIL import UnidentifiedImageError

    unknown = isinstance(error, UnidentifiedImageError)
    reason = "of no format that is known" if unknown else " ".join(str(error).split())
    return PictureError(
        f"cannot be read as an image ({reason}): give a PNG, a JPEG, or another format that Pillow reads"
    )


def fit(picture: "Image.Image", width: int, height: int) -> tuple["Image.Image", list[str]]:
    """Cuts the largest part with the proportions of a size out of the middle, and resizes it with antialiasing (Lanczos).

    Returns:
      The picture, and what was done, such as `["middle 20x20"]`: nothing if it has the right proportions.
    """
    from PIL import Image

    done = []
    scale = min(picture.width / width, picture.height / height)
    cut = (max(round(scale * width), 1), max(round(scale * height), 1))
    left, top = (picture.width - cut[0]) // 2, (picture.height - cut[1]) // 2
    if cut != picture.size:
        done.append(f"middle {cut[0]}x{cut[1]}")
        picture = picture.crop((left, top, left + cut[0], top + cut[1]))
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return picture, done


def _in_eight_bits(picture: "Image.Image", format: str | None) -> "Image.Image":
    """Returns a picture of integers or floats in mode L, or LA if one of its values means transparent."""
    from PIL import Image

    values = np.asarray(picture, np.float64)
    if picture.mode.startswith("I;16") or (picture.mode == "I" and format in ("PNG", "PPM")):
        limit = 65535  # the file says so
    else:
        limit = 1 if picture.mode == "F" and values.max() <= 1 else 255 if values.max() <= 255 else 65535
    with np.errstate(invalid="ignore"):
        scaled = np.round(values * (255 / limit))
    wrong = ~((scaled >= 0) & (scaled <= 255))  # also what is not a number
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        kind = "float" if picture.mode == "F" else "integer"
        raise PictureError(
            f"has the value {values[row, column]:g} in row {row}, column {column} (counted from 0), but the values of "
            f"{kind} images must be from 0 to 65535: correct it, or save the image with 8 bits"
        )
    transparent = picture.info.get("transparency")
    picture = Image.fromarray(scaled.astype(np.uint8))
    if isinstance(transparent, int):
        picture.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return picture


def _converted(picture: "Image.Image", mode: str) -> "Image.Image":
    from PIL import Image

    if picture.mode.endswith(("A", "a")) or "transparency" in picture.info:
        picture = picture.convert("LA" if picture.mode == "La" else "RGBA").convert("RGBA")
        if mode != "RGBA":
            picture = Image.alpha_composite(Image.new("RGBA", picture.size, "black"), picture)
    elif picture.mode not in ("1", "L", "P"):
        picture = picture.convert("RGB")  # from which every other mode can be reached
    return picture.convert(mode)


def _is_grey(picture: "Image.Image") -> bool:
    if picture.mode in ("P", "PA"):
        red, green, blue = (np.asarray(channel) for channel in picture.convert("RGB").split())
        return bool(np.array_equal(red, green) and np.array_equal(green, blue))
    return picture.mode in ("1", "L", "LA", "La")
