"""Turns uint8 pixels into the input of a network, in floats and in integers.

    x = (pixel - mean) / SCALE                       what the network is trained on, float32
    UNITS * x = 2 * pixel - 2 * mean                 the same in integers, because `mean` is a multiple of 1/2

So every input is a multiple of `1 / UNITS`, and the sums of an integer stem are exact. The fixed scale
replaces the usual division by each channel's standard deviation; the batch norm behind the stem makes up for
the difference.

This module does not import JAX.
"""

from typing import TYPE_CHECKING, TypeVar

# At run time NumPy is imported where it is used: configs need LARGEST, and are checked before NumPy is imported.
if TYPE_CHECKING:
    import jax
    import numpy as np
    import numpy.typing as npt

Array = TypeVar("Array", "jax.Array", "np.ndarray")

SCALE = 64  # a power of two near the usual standard deviation, so that dividing by it rounds nothing
UNITS = 2 * SCALE
LARGEST = 2 * 255  # |2 * pixel - 2 * mean| is at most this


def normalize(pixels: Array, mean: "Array | np.floating") -> Array:
    """Returns `(pixels - mean) / SCALE` per channel.

    Args:
      pixels: uint8 `[..., C]`, of JAX or of NumPy.
      mean: pixel means, float `[C]`, multiples of 1/2 from 0 to 255.

    Returns:
      The normalised pixels, float32 `[..., C]`, of the library that `pixels` are of.
    """
    return (pixels.astype("float32") - mean.astype("float32")) * (1 / SCALE)


def round_mean(mean: "np.ndarray") -> "np.ndarray":
    """Rounds pixel means to multiples of 1/2, and returns them as float64."""
    import numpy as np

    return np.round(2 * mean) / 2


def double_mean(mean: "npt.ArrayLike", channels: int) -> "np.ndarray":
    """Returns `2 * mean` as int16 `[channels]`.

    Args:
      mean: one number or one for each channel, multiples of 1/2 from 0 to 255.
      channels: the number of channels of the images.

    Raises:
      ValueError: if a mean is not a multiple of 1/2 from 0 to 255, or if the number of means is neither 1 nor
        `channels`.
    """
    import numpy as np

    mean = np.asarray(mean, np.float64)
    if mean.shape not in ((), (1,), (channels,)):
        raise ValueError(f"mean={mean.tolist()}: give one number, or one for each of the {channels} channels")
    mean = np.broadcast_to(mean, (channels,))
    if np.any(2 * mean != np.round(2 * mean)):
        raise ValueError(f"mean={mean.tolist()}: means must be multiples of 1/2, as they are in training")
    if np.any((mean < 0) | (2 * mean > LARGEST)):
        raise ValueError(f"mean={mean.tolist()}: means must be 0 to 255, as pixels are")
    return (2 * mean).astype(np.int16)
