"""Decodes image files as a prepared set holds them, upright and with 8 bits, fast and to the same pixels everywhere.

simplejpeg decodes the JPEG files, in half of Pillow's time or less and to the same pixels, as both use libjpeg-turbo; a
test compares them. Pillow decodes all others, and the JPEG files that simplejpeg refuses.
"""

import io
from typing import TYPE_CHECKING

import numpy as np
import simplejpeg

if TYPE_CHECKING:
    from PIL import Image

_MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}  # Pillow's names, by the number of channels
_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"  # how such files begin
REDUCTIONS = (8, 4, 2, 1)  # libjpeg decodes to these fractions of the size in less time


def size_of(data: bytes) -> tuple[int, int, int]:
    """Returns the height, the width and the number of channels, 1 if it is grey or else 3, without decoding the pixels.

    Raises:
      Exception: whatever the decoder meets first in a damaged file.
    """
    if data[:3] == _JPEG:
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            return height, width, 1 if colours == "Gray" else 3
        except ValueError:
            pass
    picture = _opened(data)
    return picture.height, picture.width, 1 if picture.mode in ("1", "L") else 3


def decode(data: bytes, channels: int | None = None, reduction: int = 1) -> np.ndarray:
    """Decodes an image file (PNG, JPEG, ...).

    Args:
      data: the content of the file.
      channels: 1 to 4; with None or 0, grey pictures have 1 channel and all others 3.
      reduction: one of `REDUCTIONS`; a JPEG file is decoded to this fraction of its height and width, rounded up.

    Returns:
      uint8 `[H, W, channels]`.

    Raises:
      Exception: whatever the decoder meets first in a damaged file.
    """
    if data[:3] == _JPEG and channels in (None, 0, 1, 3):
        try:
            return _decode_jpeg(data, channels, reduction)
        except ValueError:  # Pillow is asked as well: it reads some files that are not quite right
            pass
    picture = _opened(data)
    if reduction > 1:
        picture.draft(None, (max(picture.width // reduction, 1), max(picture.height // reduction, 1)))
    mode = _MODES[channels] if channels else "L" if picture.mode in ("1", "L") else "RGB"
    if picture.mode != mode:
        picture = picture.convert(mode)
    width, height = picture.size
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(height, width, -1)


def _decode_jpeg(data: bytes, channels: int | None, reduction: int) -> np.ndarray:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours not in ("Gray", "YCbCr", "RGB") or (channels == 1 and colours != "Gray"):
        raise ValueError(f"{colours} is left to Pillow")
    least = {"min_height": -(-height // reduction), "min_width": -(-width // reduction)}
    grey = colours == "Gray" and channels != 3
    return simplejpeg.decode_jpeg(
        data, "GRAY" if grey else "RGB", **(least if reduction > 1 else {}), strict=True
    )


def _opened(data: bytes) -> "Image.Image":
    from PIL import Image, PngImagePlugin

    # Image.open tries one format after the other. Opening a PNG file directly halves the time.
    file = io.BytesIO(data)
    return PngImagePlugin.PngImageFile(file) if data[:8] == _PNG else Image.open(file)
