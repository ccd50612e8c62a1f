"""The residual stream's fixed-point grid, with straight-through gradients, and the units of integer weights.

A stream value is `integer * 2**-fraction_bits` with an int16 integer. `fraction_bits=None` means the float
stream of a float network, which `round_to_grid`, `saturating_add` and `mean_pool` do not round.

Training rounds weights and stream in float32, and `qresnet_jax.ship.fold` rounds them in float64. Both take the
units from here.
"""

import jax
import jax.numpy as jnp
import numpy as np

from qresnet_jax.pixels import Array
from qresnet_jax.quantize import exact
from qresnet_jax.quantize.straight_through import straight_through

STREAM_MAX = exact.STREAM_MAX
FRACTION_BITS = 8  # the grid's default
CLASSIFIER_BITS = 11  # the most bits of a classifier's integer weights
_SMALLEST = 1e-12  # what stands for the largest weight of a channel whose weights are all smaller
# What the weights of a class may take of the range of int32; the bias has the rest.
_WEIGHTS_SHARE = 0.98


def round_half_up(x: jax.Array) -> jax.Array:
    """Returns `floor(x + 1/2)`, which is how an arithmetic right shift rounds after half a unit is added."""
    return jnp.floor(x + 0.5)


def round_to_grid(x: jax.Array, fraction_bits: int | None) -> jax.Array:
    """Rounds half up to multiples of `2**-fraction_bits` and saturates to int16; the gradient passes straight through.

    Args:
      x: float, any shape.
      fraction_bits: fraction bits of the grid. With None, `x` is returned as it is.

    Returns:
      An array of the shape of `x`.
    """
    if fraction_bits is None:
        return x
    unit = 2.0**-fraction_bits
    return straight_through(jnp.clip(round_half_up(x / unit), -STREAM_MAX - 1, STREAM_MAX) * unit, x)


def saturating_add(a: jax.Array, b: jax.Array, fraction_bits: int | None) -> jax.Array:
    """Returns `a + b` of two streams of one shape, saturated to int16. Float streams are only added."""
    total = a + b
    if fraction_bits is None:
        return total
    unit = 2.0**-fraction_bits
    low, high = (-STREAM_MAX - 1) * unit, STREAM_MAX * unit
    # Not by `jnp.clip`: its gradient divides among equals, which costs a pass over the stream in each block.
    return jnp.where(total > high, high, jnp.where(total < low, low, total))


def mean_pool(stream: jax.Array, fraction_bits: int | None) -> jax.Array:
    """Returns the mean over height and width, rounded half up to the grid.

    In integers this is `floor((2 * sum + count) / (2 * count))`. The gradient is that of the float mean.

    Args:
      stream: float `[N, H, W, C]`, on the grid.
      fraction_bits: fraction bits of the grid. With None, the float mean is returned.

    Returns:
      The means, float `[N, C]`.
    """
    mean = jnp.mean(stream, axis=(1, 2))
    if fraction_bits is None:
        return mean
    count = stream.shape[1] * stream.shape[2]
    total = jnp.sum((stream * 2**fraction_bits).astype(jnp.int32), axis=(1, 2))
    return _on_grid(total, count, fraction_bits, mean)


def _on_grid(total: jax.Array, count: int, fraction_bits: int, mean: jax.Array) -> jax.Array:
    """Returns the mean of `count` integers with this `total`, rounded half up, with the gradient of the float `mean`."""
    rounded = ((2 * total + count) // (2 * count)).astype(jnp.float32)
    return straight_through(rounded * 2.0**-fraction_bits, mean)


def windowed_mean(
    stream: jax.Array, fraction_bits: int | None, window: tuple[int, int], strides: tuple[int, int]
) -> jax.Array:
    """Returns the mean of each window, rounded half up to the grid like that of `mean_pool`.

    Args:
      stream, fraction_bits: as in `mean_pool`.
      window, strides: along H and W.

    Returns:
      The means, float `[N, H', W', C]`.
    """
    count = window[0] * window[1]

    def total(x: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(
            x, np.zeros([], x.dtype), jax.lax.add, (1, *window, 1), (1, *strides, 1), "VALID"
        )

    mean = total(stream) / count
    if fraction_bits is None:
        return mean
    integers = total((jax.lax.stop_gradient(stream) * 2**fraction_bits).astype(jnp.int32))
    return _on_grid(integers, count, fraction_bits, mean)


def stem_unit(kernel: Array, weight_bits: int) -> Array:
    """Returns what one unit of a stem's integer weights is worth, so that the largest weight of a channel is the largest integer.

    Args:
      kernel: float `[kh, kw, in, out]`, of JAX or of NumPy.
      weight_bits: bits of the integer weights, 2 or more.

    Returns:
      `[out]`, of the dtype and library of `kernel`.
    """
    return abs(kernel).max((0, 1, 2)).clip(_SMALLEST) / (2.0 ** (weight_bits - 1) - 1)


def classifier_unit(kernel: Array) -> Array:
    """Returns what one unit of a classifier's integer weights is worth.

    It is the smallest unit for which the largest weight has at most 11 bits, and for which the sums of each class
    stay below 98 % of int32's range, whatever int16 features they are of.

    Args:
      kernel: float `[in, classes]`, of JAX or of NumPy, with at most `exact.MOST_FEATURES` inputs.

    Returns:
      A scalar, of the dtype and library of `kernel`.
    """
    size = abs(kernel)
    # A weight may be rounded up by half a unit, and a feature may be as large as 2**15.
    room = _WEIGHTS_SHARE * 2.0**16 - len(kernel) / 2
    for_int32 = size.sum(0).max() / room
    for_bits = size.max() / (2.0 ** (CLASSIFIER_BITS - 1) - 1)
    return kernel.__array_namespace__().maximum(for_int32, for_bits).clip(_SMALLEST)


def bias_room(kernel: Array) -> Array:
    """Returns the largest magnitude of each class's integer bias, for which its sums still fit int32.

    Args:
      kernel: the integer weights, float `[in, classes]`, of JAX or of NumPy.

    Returns:
      `[classes]`, of the dtype and library of `kernel`.
    """
    return 0.99 * (2.0**31 - abs(kernel).sum(0) * 2.0**15)  # 1 % less, because float32 rounds
