"""The residual stream's fixed-point grid: rounding with straight-through gradients, and exact requantization.

A stream value is `integer * 2**-fraction_bits` with an int16 integer. `fraction_bits=None` means a float stream:
every function here then leaves its input as it is.

Batch norm in evaluation mode is computed as it ships, in integers:

    stream = (acc * M + C) >> k          M, C, k per channel, saturated to int16

All intermediate values fit int32 although `acc * M` may not: with `acc = hi * 2**12 + lo` (`0 <= lo < 2**12`)
and likewise for C, nested floors give

    (acc * M + C) >> k = (hi * M + C_hi + ((lo * M + C_lo) >> 12)) >> (k - 12)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from qresnet_jax.quantizers import straight_through

STREAM_MAX = 2**15 - 1  # int16
EXACT_FLOAT32 = 2**24  # integers up to here are exact in float32, in any order of summation
_SPLIT = 12
_MULTIPLIER_BITS = 18  # magnitude of M; with its sign, 19 bits


def round_half_up(x: jax.Array) -> jax.Array:
    """`floor(x + 1/2)`, the rounding of an arithmetic right shift with half a unit added."""
    return jnp.floor(x + 0.5)


def round_to_grid(x: jax.Array, fraction_bits: int | None) -> jax.Array:
    """Rounds half up to multiples of `2**-fraction_bits` and saturates to int16; the gradient passes straight through.

    Args:
      x: float, any shape.
      fraction_bits: of the grid; None returns `x`.
    """
    if fraction_bits is None:
        return x
    unit = 2.0**-fraction_bits
    return straight_through(jnp.clip(round_half_up(x / unit), -STREAM_MAX - 1, STREAM_MAX) * unit, x)


def saturating_add(a: jax.Array, b: jax.Array, fraction_bits: int | None) -> jax.Array:
    """`a + b` of two streams, saturated to int16; floats are only added."""
    total = a + b
    if fraction_bits is None:
        return total
    unit = 2.0**-fraction_bits
    return jnp.clip(total, (-STREAM_MAX - 1) * unit, STREAM_MAX * unit)


def mean_pool(stream: jax.Array, fraction_bits: int | None) -> jax.Array:
    """Mean over height and width, rounded half up to the grid: `floor((2 * sum + count) / (2 * count))` in integers.

    Args:
      stream: float `[N, H, W, C]`, on the grid.
      fraction_bits: of the grid; None gives the float mean.

    Returns:
      float `[N, C]`.
    """
    mean = jnp.mean(stream, axis=(1, 2))
    if fraction_bits is None:
        return mean
    count = stream.shape[1] * stream.shape[2]
    total = jnp.sum((stream * 2**fraction_bits).astype(jnp.int32), axis=(1, 2))
    return straight_through(((2 * total + count) // (2 * count)) * jnp.float32(2.0**-fraction_bits), mean)


class Requantizer(NamedTuple):
    """Per-channel constants of `(acc * M + C) >> k`, int32 `[C]` each; `C = offset_high * 2**12 + offset_low`."""

    multiplier: jax.Array
    offset_high: jax.Array
    offset_low: jax.Array
    shift: jax.Array


def requantizer(multiplier: jax.Array, offset: jax.Array, acc_max: int, fraction_bits: int) -> Requantizer:
    """Rounds the float function `acc * multiplier + offset` to the integers that compute it on the grid.

    k is per channel, as large as leaves `acc * M + C` inside its width for every possible accumulator: int32 while
    accumulators have up to 12 bits (2-bit activations up to 128 channels), else 43 bits. So nothing can overflow, and
    a dead channel's huge multiplier does not coarsen its neighbours'.

    Args:
      multiplier: float32 `[C]`.
      offset: float32 `[C]`, in real units (not in units of the grid).
      acc_max: the largest possible `|acc|`, at most `2**24`.
      fraction_bits: of the grid.
    """
    bound = jnp.abs(multiplier) * acc_max + jnp.abs(offset) + 1
    width = 30 if acc_max < 2**12 else 42
    shift = jnp.minimum(
        width - fraction_bits - _exponent(bound), _MULTIPLIER_BITS - fraction_bits - _exponent(multiplier)
    )
    # The upper end keeps k - 12 a legal int32 shift, the lower the split; what needs less saturates anyway.
    shift = jnp.clip(shift, _SPLIT, _SPLIT + 24)
    limit = 2.0**_MULTIPLIER_BITS - 1
    m = jnp.clip(jnp.round(jnp.ldexp(multiplier, fraction_bits + shift)), -limit, limit)
    c = jnp.clip(jnp.round(jnp.ldexp(offset, fraction_bits + shift)), -(2.0**width), 2.0**width)
    high = jnp.floor(c / 2**_SPLIT)
    low = c - high * 2**_SPLIT
    half = jnp.left_shift(
        1, shift - 1
    )  # turns the shift's floor into rounding half up; at most 2**35, hence split
    half_high = jnp.where(shift > _SPLIT, jnp.left_shift(1, jnp.maximum(shift - 1 - _SPLIT, 0)), 0)
    half_low = jnp.where(shift > _SPLIT, 0, half)
    return Requantizer(
        m.astype(jnp.int32),
        high.astype(jnp.int32) + half_high,
        low.astype(jnp.int32) + half_low,
        shift.astype(jnp.int32),
    )


def _exponent(x):
    """The least integer e with `|x| < 2**e`, 0 for `x = 0`."""
    return jnp.frexp(jnp.abs(x))[1]


def requantize(acc: jax.Array, constants: Requantizer, fraction_bits: int) -> jax.Array:
    """`(acc * M + C) >> k` saturated to int16, exactly, as float multiples of `2**-fraction_bits`.

    Args:
      acc: integers of any dtype (also integral floats), `[..., C]`, `|acc| <= 2**24`.
      constants: from `requantizer`.
      fraction_bits: of the grid.

    Returns:
      float32, like `acc`.
    """
    m, c_high, c_low, k = constants
    acc = acc.astype(jnp.int32)
    high, low = acc >> _SPLIT, acc & (2**_SPLIT - 1)
    total = high * m + c_high + ((low * m + c_low) >> _SPLIT)
    stream = jnp.clip(total >> (k - _SPLIT), -STREAM_MAX - 1, STREAM_MAX)
    return stream.astype(jnp.float32) * 2.0**-fraction_bits
