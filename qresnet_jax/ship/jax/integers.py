"""Computes requantization, thresholds and mean pooling of an `IntegerNetwork` in JAX, exactly, without 64-bit types.

A node's arrays are turned into constants on the host, by `requantizer_constants` and `threshold_constants`. Their
values may be tracers where they are used, so everything that a program depends on is known from the node's place
in the network, not from its values.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window

MAX_POOLED_PIXELS = 2**22  # the sums in `mean_pool` then fit 32 bits
_UNROLLED_THRESHOLDS = 16
_SPLIT = 12

Array = jax.Array | np.ndarray


class Split(NamedTuple):
    """The constants of a `RequantizeNode` whose sums fit 32 bits in two parts, see `ship.requantize`: int32 `[C]` each."""

    multiplier: Array
    high: Array  # C >> first
    low: Array  # the rest of C
    first: Array  # min(k, 12)
    second: Array  # k - first, at most 31


class Whole(NamedTuple):
    """The constants of a `RequantizeNode` whose sums fit 32 bits: int32 `[C]` each."""

    multiplier: Array
    offset: Array
    shift: Array  # at most 31


class Wide(NamedTuple):
    """The constants of any other `RequantizeNode`: int32 `[C]` each, but for the uint32 low word."""

    multiplier: Array
    offset_low: Array
    offset_high: Array
    shift: Array


class Thresholds(NamedTuple):
    """The constants of a `ThresholdsNode`."""

    thresholds: Array  # int16 or int32 [C, n], of rising channels
    falling: Array | None  # bool [C], or None if no channel may fall


def requantizer_constants(node: nodes.RequantizeNode, bound: int, is_narrow: bool) -> Whole | Split | Wide:
    """Prepares a node for `requantize`.

    Args:
      node: the node.
      bound: the largest possible `|x|` of its input, at most `2**24`.
      is_narrow: whether inputs are so small that the whole sums may fit 32 bits. What `fold` made then does.

    Returns:
      The constants of the cheapest form that is exact.
    """
    if is_narrow and (parts := _split(node, bound, 0)):
        return Whole(parts.multiplier, parts.high, parts.second)
    if parts := _split(node, bound, _SPLIT):
        return parts
    high = (node.offset >> 32).astype(np.int32)
    low = (node.offset & 0xFFFFFFFF).astype(np.uint32)
    return Wide(node.multiplier, low, high, node.shift.astype(np.int32))


def _split(node: nodes.RequantizeNode, bound: int, split: int) -> Split | None:
    """Returns the constants for `S = min(k, split)`, or None if an intermediate value would not fit 32 bits."""
    multiplier, shift = node.multiplier.astype(np.int64), node.shift.astype(np.int64)
    first = np.minimum(shift, split)
    high, low = node.offset >> first, node.offset & ((1 << first) - 1)
    size = np.abs(multiplier)
    largest = ((bound >> first) + 1) * size + np.abs(high) + size + 2
    if np.any(largest >= 2**31) or np.any((size + 1) << first >= 2**31):
        return None
    # A shift of an int32 by 31 leaves only the sign, so a longer shift gives the same.
    return Split(*(x.astype(np.int32) for x in (multiplier, high, low, first, np.minimum(shift - first, 31))))


def requantize(constants: Whole | Split | Wide, x: jax.Array, axis: int) -> jax.Array:
    """Computes `saturate((x * multiplier + offset) >> shift)`.

    Args:
      constants: from `requantizer_constants`.
      x: integers of any dtype within the bound of the constants.
      axis: the axis of the channels of `x`.

    Returns:
      int16, of the shape of `x`.
    """
    x = x.astype(jnp.int32)
    along = [_along(constant, x, axis) for constant in constants]
    match constants:
        case Whole():
            m, offset, shift = along
            return saturate((x * m + offset) >> shift)
        case Split():
            m, high, low, first, second = along
            x_high = x >> first
            x_low = x - (x_high << first)
            return saturate((x_high * m + high + ((x_low * m + low) >> first)) >> second)
        case Wide():
            return _wide_requantize(x, *along)


def _wide_requantize(
    x: jax.Array, m: jax.Array, offset_low: jax.Array, offset_high: jax.Array, shift: jax.Array
) -> jax.Array:
    """Requantizes with 64-bit sums in two words, for any multiplier and offset that a node may have."""
    high, low = _product(x, m)
    total = low + offset_low
    high += offset_high + (total < low)  # the carry
    # Shift the pair right: by up to 31 bits, then by a whole word where the shift is longer.
    bits = shift & 31
    from_high = (high.astype(jnp.uint32) << (31 - bits).astype(jnp.uint32)) << jnp.uint32(1)
    low = from_high | (total >> bits.astype(jnp.uint32))
    low, high = lax.bitcast_convert_type(low, jnp.int32), high >> bits
    low, high = jnp.where(shift >= 32, high, low), jnp.where(shift >= 32, high >> 31, high)
    fits = high == low >> 31
    return jnp.where(fits, saturate(low), jnp.where(high < 0, nodes.STREAM_MIN, nodes.STREAM_MAX)).astype(
        jnp.int16
    )


def _product(x: jax.Array, m: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Returns `x * m` of int32 with `|x| <= 2**24` as two words (int32, uint32), computed from halves of 16 bits."""
    x_high, x_low, m_high, m_low = x >> 16, x & 0xFFFF, m >> 16, m & 0xFFFF
    lowest = x_low.astype(jnp.uint32) * m_low.astype(jnp.uint32)
    middle = x_high * m_low + (lowest >> 16).astype(jnp.int32)
    other = x_low * m_high + (middle & 0xFFFF)
    high = x_high * m_high + (middle >> 16) + (other >> 16)
    return high, x.astype(jnp.uint32) * m.astype(jnp.uint32)


def saturate(x: jax.Array) -> jax.Array:
    """Clips integers to int16."""
    return jnp.clip(x, nodes.STREAM_MIN, nodes.STREAM_MAX).astype(jnp.int16)


def saturating_add(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns `saturate(a + b)` of two int16 arrays."""
    return saturate(a.astype(jnp.int32) + b.astype(jnp.int32))


def threshold_constants(node: nodes.ThresholdsNode, bound: int) -> Thresholds:
    """Prepares a node for `levels`.

    Since `-x >= t` is the same as `not x >= 1 - t`, a falling channel is computed as a rising one that counts
    down from the top. So x is not negated, which int16 would not allow for -32768.

    Args:
      node: the node.
      bound: the largest possible `|x|` of its input.
    """
    falling = node.direction < 0
    thresholds = node.thresholds.astype(np.int64)
    thresholds = np.where(falling[:, None], 1 - thresholds, thresholds)
    thresholds = np.clip(thresholds, -bound, bound + 1)  # every x passes -bound, and no x passes bound + 1
    dtype = np.int16 if bound < nodes.STREAM_MAX else np.int32
    may_fall = len(falling) > 1 or falling[0]
    return Thresholds(thresholds.astype(dtype), falling if may_fall else None)


def levels(levels: Sequence[int], constants: Thresholds, x: jax.Array, axis: int) -> jax.Array:
    """Returns `levels[i]`, where i counts the thresholds of the channel with `direction * x >= threshold`.

    Args:
      levels: the levels of the node.
      constants: from `threshold_constants`.
      x: int16 or int32 within the bound of the constants.
      axis: the axis of the channels of `x`.

    Returns:
      int16, of the shape of `x`.
    """
    thresholds = jnp.asarray(constants.thresholds)
    steps = np.diff(levels).astype(np.int16)
    climbed = _climbed(x.astype(thresholds.dtype), thresholds, steps, axis)
    if constants.falling is None:
        return climbed
    return jnp.where(_along(constants.falling, x, axis), np.int16(levels[-1]) - climbed, climbed)


def _climbed(x: jax.Array, thresholds: jax.Array, steps: np.ndarray, axis: int) -> jax.Array:
    """Returns the sum of `steps[i]` over the thresholds i that x passes."""

    def add(total: jax.Array, thresholds: jax.Array, steps: np.ndarray | jax.Array) -> jax.Array:
        for i in range(len(steps)):
            total += jnp.where(x >= _along(thresholds[:, i], x, axis), steps[i], jnp.int16(0))
        return total

    total = jnp.zeros(x.shape, jnp.int16)
    chunks = len(steps) // _UNROLLED_THRESHOLDS
    looped = chunks * _UNROLLED_THRESHOLDS
    if chunks:
        parts = thresholds[:, :looped].reshape(len(thresholds), chunks, -1).swapaxes(0, 1)
        total, _ = lax.scan(
            lambda total, part: (add(total, *part), None), total, (parts, steps[:looped].reshape(chunks, -1))
        )
    return add(total, thresholds[:, looped:], steps[looped:])


def mean_pool(x: jax.Array, window: Window) -> jax.Array:
    """Computes `(2 * sum + count) // (2 * count)` of the `count` pixels in each window, in 32 bits.

    With `x = 256 * x_high + x_low` the sum is `256 * (q * count + r) + low`, `0 <= r < count`, so that 256 *
    q can be added after the division.

    Args:
      x: int16 `[C, H, W, N]`.
      window: without padding.

    Returns:
      int32 `[C, H', W', N]`.

    Raises:
      ValueError: if there are more than `MAX_POOLED_PIXELS` pixels in a window.
    """
    count = window.size[0] * window.size[1]
    if count > MAX_POOLED_PIXELS:
        raise ValueError(
            f"the mean over {count:,} pixels does not fit 32 bits; use smaller images, so that there are at most "
            f"{MAX_POOLED_PIXELS:,} pixels"
        )
    x = x.astype(jnp.int32)
    high, low = _window_sum(x >> 8, window), _window_sum(x & 0xFF, window)
    quotient = high // count
    rest = (256 * (high - quotient * count) + low).astype(jnp.uint32)
    return 256 * quotient + ((2 * rest + np.uint32(count)) // np.uint32(2 * count)).astype(jnp.int32)


def _window_sum(x: jax.Array, window: Window) -> jax.Array:
    if window.size == x.shape[1:3]:
        return jnp.sum(x, (1, 2), keepdims=True)
    return lax.reduce_window(
        x, np.int32(0), lax.add, (1, *window.size, 1), (1, *window.strides, 1), padding="VALID"
    )


def _along(constant: Array, x: jax.Array, axis: int) -> jax.Array:
    """Reshapes `[C]` or `[1]` so that it broadcasts against x along its `axis`."""
    shape = [1] * x.ndim
    shape[axis] = -1
    return jnp.reshape(constant, shape)
