"""The residual stream's fixed-point grid: rounding with straight-through gradients, and exact requantization.

A stream value is `integer * 2**-fraction_bits` with an int16 integer. `fraction_bits=None` means a float
stream, which `round_to_grid`, `saturating_add` and `mean_pool` do not round.

Batch norm in evaluation mode is computed as it ships, in integers:

    stream = (acc * M + C) >> k          M, C, k per channel, saturated to int16

All intermediate values fit int32, although `acc * M` may not. With `S = min(k, 12)`, `acc = hi * 2**S + lo`
(`0 <= lo < 2**S`) and C split in the same way, nested floors give

    (acc * M + C) >> k = (hi * M + C_hi + ((lo * M + C_lo) >> S)) >> (k - S)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from qresnet_jax.quantize import exact
from qresnet_jax.quantize.straight_through import straight_through

STREAM_MAX = exact.STREAM_MAX
FRACTION_BITS = 8  # the grid's default
_SPLIT = 12
_MULTIPLIER_BITS = 18  # magnitude of M; with its sign, 19 bits


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
    rounded = ((2 * total + count) // (2 * count)).astype(jnp.float32)
    return straight_through(rounded * 2.0**-fraction_bits, mean)


class Requantizer(NamedTuple):
    """The per-channel constants of `(acc * M + C) >> k`, each an int32 array `[C]`."""

    multiplier: jax.Array  # M, |M| < 2**18
    offset_high: jax.Array  # C >> S, with S = min(k, 12)
    offset_low: jax.Array  # the rest of C; holds up to 1.5 * 2**S
    shift: jax.Array  # k, 0 to 36

    def offset(self) -> np.ndarray:
        """Returns C as an int64 array `[C]`."""
        split = np.minimum(np.asarray(self.shift, np.int64), _SPLIT)
        return np.asarray(self.offset_high, np.int64) * 2**split + np.asarray(self.offset_low, np.int64)


def requantizer(multiplier: jax.Array, offset: jax.Array, acc_max: int, fraction_bits: int) -> Requantizer:
    """Rounds the float function `acc * multiplier + offset` to the integers that compute it on the grid.

    Each channel has its own k, the largest for which `acc * M + C` keeps within a fixed width for every
    possible accumulator. The width is int32 while accumulators have up to 12 bits (2-bit activations, up to 128
    channels), else 43 bits. So nothing can overflow, and the huge multiplier of a dead channel does not make
    those of its neighbours coarser. C includes the half unit that turns the shift's floor into rounding half
    up.

    Args:
      multiplier: float32 `[C]`.
      offset: float32 `[C]`, in real units (not in units of the grid).
      acc_max: the largest possible `|acc|`, at most `2**24`.
      fraction_bits: fraction bits of the grid.
    """
    # No trained multiplier comes near these limits. They keep absurd values from overflowing.
    steepest, farthest = 2.0 ** (29 - fraction_bits) / acc_max, 2.0 ** (28 - fraction_bits)
    multiplier = jnp.clip(multiplier, -steepest, steepest)
    offset = jnp.clip(offset, -farthest, farthest)
    width = 30 if acc_max < 2**12 else 42
    bound = jnp.abs(multiplier) * acc_max + jnp.abs(offset) + 1
    shift = jnp.minimum(
        width - fraction_bits - _exponent(bound), _MULTIPLIER_BITS - fraction_bits - _exponent(multiplier)
    )
    shift = jnp.clip(shift, 0, _SPLIT + 24).astype(jnp.int32)
    split = jnp.minimum(shift, _SPLIT)
    limit = 2**_MULTIPLIER_BITS - 1
    m = jnp.clip(jnp.round(jnp.ldexp(multiplier, fraction_bits + shift)), -limit, limit)
    c = jnp.round(jnp.ldexp(offset, fraction_bits + shift))
    high = jnp.floor(jnp.ldexp(c, -split))
    low = c - jnp.ldexp(high, split)
    # Half a unit, 2**(k - 1), is added to the part of C that can hold it.
    half = jnp.where(
        shift > 0, jnp.left_shift(1, jnp.maximum(shift - 1 - jnp.where(shift > _SPLIT, _SPLIT, 0), 0)), 0
    )
    return Requantizer(
        m.astype(jnp.int32),
        high.astype(jnp.int32) + jnp.where(shift > _SPLIT, half, 0),
        low.astype(jnp.int32) + jnp.where(shift > _SPLIT, 0, half),
        shift,
    )


def _exponent(x: jax.Array) -> jax.Array:
    """Returns the least integer e with `|x| < 2**e`, and 0 for `x = 0`."""
    return jnp.frexp(jnp.abs(x))[1]


def requantize(acc: jax.Array, constants: Requantizer, fraction_bits: int) -> jax.Array:
    """Computes `(acc * M + C) >> k` exactly, saturates it to int16, and scales it by `2**-fraction_bits`.

    Args:
      acc: accumulators `[..., C]`: integers or floats with integral values, `|acc| <= 2**24`.
      constants: what `requantizer` returns.
      fraction_bits: fraction bits of the grid.

    Returns:
      The stream, float32, of the shape of `acc`.
    """
    m, c_high, c_low, k = constants
    split = jnp.minimum(k, _SPLIT)
    acc = acc.astype(jnp.int32)
    high = acc >> split
    low = acc - (high << split)
    total = high * m + c_high + ((low * m + c_low) >> split)
    stream = jnp.clip(total >> (k - split), -STREAM_MAX - 1, STREAM_MAX)
    return stream.astype(jnp.float32) * 2.0**-fraction_bits
