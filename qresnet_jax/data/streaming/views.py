"""Turns an encoded image into the pixels that training or a test sees: whole, cut to a square, or cut at random.

Everything here depends on the arguments alone, and not on the process that computes it.
"""

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from qresnet_jax.data.pictures import fit
from qresnet_jax.data.streaming.encoded import REDUCTIONS, decode, size_of

# With random crops, the short side of a test image is this many times what the network sees.
TEST_MARGIN = 256 / 224
RATIOS = (3 / 4, 4 / 3)  # the least and the largest ratio of width to height of a random crop
_ATTEMPTS = 10

if TYPE_CHECKING:
    from PIL import Image

_Box = tuple[float, float, float, float]  # left, top, width, height in pixels


@dataclasses.dataclass(frozen=True)
class View:
    """What is seen of the images of a set.

    Args:
      channels: 1 to 4; None if each image says it itself.
      image_size: the height and width that images are resized to; with 0 they keep their size.
      least_area: the least fraction of its area that a random crop of an image has. With 1 there are no random crops:
        training and tests see the largest square in the middle, resized with antialiasing (Lanczos).
    """

    channels: int | None
    image_size: int = 0
    least_area: float = 1.0

    def of_test(self, data: bytes) -> np.ndarray:
        """Returns what a test sees of an encoded image, uint8 `[H, W, channels]`.

        Raises:
          Exception: whatever the decoder meets first in a damaged file.
        """
        if self.least_area < 1:
            height, width, _ = size_of(data)
            side = min(height, width) / TEST_MARGIN
            return self._cut(data, (height, width), ((width - side) / 2, (height - side) / 2, side, side))
        return self._whole(data)

    def of_training(self, data: bytes, seed: int, sample: int) -> np.ndarray:
        """Returns what training sees of an encoded image, uint8 `[H, W, channels]`.

        Args:
          data: the encoded image.
          seed: the seed of the run.
          sample: the number of the image in the run, counted over all epochs.

        Raises:
          Exception: whatever the decoder meets first in a damaged file.
        """
        if self.least_area == 1:
            return self._whole(data)
        height, width, _ = size_of(data)
        rng = np.random.RandomState([seed, sample % 2**32, sample // 2**32])
        return self._cut(data, (height, width), random_box(rng, height, width, self.least_area))

    def _whole(self, data: bytes) -> np.ndarray:
        pixels = decode(data, self.channels)
        size = self.image_size
        if not size or pixels.shape[:2] == (size, size):
            return pixels
        return _array(fit(_picture(pixels), size, size)[0])

    def _cut(self, data: bytes, size: tuple[int, int], box: _Box) -> np.ndarray:
        """Returns a box of an image, resized with antialiasing (linear); a large JPEG file is decoded to a fraction."""
        from PIL import Image

        reduction = next(n for n in REDUCTIONS if n == 1 or min(box[2:]) / n >= self.image_size)
        pixels = decode(data, self.channels, reduction)
        scale = 1 if pixels.shape[:2] == size else 1 / reduction  # the last row and column may stand for less
        left, top, width, height = (scale * part for part in box)
        corners = (left, top, left + width, top + height)
        limits = (pixels.shape[1], pixels.shape[0]) * 2  # which rounding may pass
        corners = tuple(min(corner, limit) for corner, limit in zip(corners, limits, strict=True))
        both = (self.image_size, self.image_size)
        return _array(_picture(pixels).resize(both, Image.Resampling.BILINEAR, box=corners))


def random_box(rng: np.random.RandomState, height: int, width: int, least_area: float) -> _Box:
    """Draws a part of an image (Szegedy et al. 2015): its area, its ratio of width to height, and its place.

    The area is uniform from `least_area` to the whole, the logarithm of the ratio from 3/4 to 4/3. If ten such parts do
    not fit, it is the largest one in the middle whose ratio is in that range.

    Returns:
      `(left, top, width, height)` in whole pixels.
    """
    for _ in range(_ATTEMPTS):
        area = height * width * rng.uniform(least_area, 1)
        ratio = math.exp(rng.uniform(math.log(RATIOS[0]), math.log(RATIOS[1])))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return rng.randint(0, width - w + 1), rng.randint(0, height - h + 1), w, h
    w = min(width, max(round(height * RATIOS[1]), 1))
    h = min(height, max(round(width / RATIOS[0]), 1))
    return (width - w) // 2, (height - h) // 2, w, h


def _picture(pixels: np.ndarray) -> "Image.Image":
    from PIL import Image

    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _array(picture: "Image.Image") -> np.ndarray:
    pixels = np.asarray(picture, np.uint8)
    return pixels if pixels.ndim == 3 else pixels[..., None]
