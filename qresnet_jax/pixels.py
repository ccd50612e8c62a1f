"""From uint8 pixels to the input of a network, in floats and in integers; free of JAX.

    x = (pixel - mean) / SCALE                       what the network is trained on, float32
    UNITS * x = 2 * pixel - 2 * mean                 the same in integers, as `mean` is a multiple of 1/2

So every input is a multiple of `1 / UNITS`, and the sums of an integer stem are exact. The fixed scale stands in for
the division by each channel's standard deviation; the batch norm behind the stem takes up the difference.
"""

from typing import TYPE_CHECKING, TypeVar

if (
    TYPE_CHECKING
):  # at run time NumPy is imported where it is used: configs, which need LARGEST, are checked without it
    import jax
    import numpy as np
    import numpy.typing as npt

Array = TypeVar("Array", "jax.Array", "np.ndarray")

SCALE = 64  # a power of two near the usual standard deviation, so that dividing by it rounds nothing
UNITS = 2 * SCALE
LARGEST = 2 * 255  # |2 * pixel - 2 * mean| is at most this


def normalize(pixels: Array, mean: "Array | np.floating") -> Array:
    """Returns `(pixels - mean) / SCALE` per channel, float32, as an array of the same library (JAX or NumPy).

    Args:
      pixels: uint8 `[..., C]`.
      mean: float `[C]`, multiples of 1/2 in 0 .. 255.
    """
    return (pixels.astype("float32") - mean.astype("float32")) * (1 / SCALE)


def round_mean(mean: "np.ndarray") -> "np.ndarray":
    """Rounds pixel means to multiples of 1/2, float64."""
    import numpy as np

    return np.round(2 * mean) / 2


def double_mean(mean: "npt.ArrayLike", channels: int) -> "np.ndarray":
    """Returns `2 * mean`, int16 `[channels]`.

    Args:
      mean: one number or one for each channel, multiples of 1/2.
      channels: of the images.

    Raises:
      ValueError: a mean that is no multiple of 1/2, or none of 0 .. 255; another number of means.
    """
    import numpy as np

    mean = np.asarray(mean, np.float64)
    if mean.shape not in ((), (1,), (channels,)):
        raise ValueError(f"mean={mean.tolist()}: give one number, or one for each of the {channels} channels")
    mean = np.broadcast_to(mean, (channels,))
    if np.any(2 * mean != np.round(2 * mean)):
        raise ValueError(f"mean={mean.tolist()}: must be half-integers, as in training")
    if np.any((mean < 0) | (2 * mean > LARGEST)):
        raise ValueError(f"mean={mean.tolist()}: means must be 0 to 255, as pixels are")
    return (2 * mean).astype(np.int16)
