"""Functions between layers: they keep what is known of the numbers, and have an integer form."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import nnx

from qresnet_jax.nn.carriers import Levels, Stream, Sums, array_of, with_value
from qresnet_jax.nn.recording import Symbol, recorded
from qresnet_jax.nn.shapes import Padding, Pair, borders, pair
from qresnet_jax.quantize import fixed_point


def is_a(x: Any, *kinds: type) -> bool:
    """Returns whether `x` is a carrier of one of these types, or the symbol of one."""
    return isinstance(x.abstract if isinstance(x, Symbol) else x, kinds)


@recorded
def relu(x: Any) -> Any:
    """Returns `max(x, 0)` of sums, a stream or an array, as the same kind."""
    return with_value(x, nnx.relu(array_of(x)))


@recorded
def to_stream(x: Any, fraction_bits: int | None = fixed_point.FRACTION_BITS) -> Any:
    """Rounds sums or levels half up to the grid of the residual stream, and saturates; gradients pass straight through.

    Args:
      x: float `[N, ..., C]`, an array, `Sums` or `Levels`.
      fraction_bits: fraction bits of the grid, or None for a float stream, which is not rounded.

    Returns:
      A `Stream`, or the array of a float stream.
    """
    if fraction_bits is None:
        return array_of(x)
    return Stream(fixed_point.round_to_grid(array_of(x), fraction_bits), fraction_bits)


def add(a: Any, b: Any) -> Any:
    """Returns the sum of two streams, saturated to int16. Sums and levels are rounded to the grid first, arrays only added.

    Raises:
      ValueError: the streams have different grids.
    """
    return add_alike(*_alike("add", a, b))


def concat(parts: Sequence[Any]) -> Any:
    """Returns the channels of several streams one after the other. Sums and levels are rounded to the grid first.

    Args:
      parts: two or more of `[N, H, W, C]` or `[N, C]`, with different C.

    Returns:
      A `Stream`; of arrays, an array.

    Raises:
      ValueError: the streams have different grids, or there are less than two parts.
    """
    if len(parts) < 2:
        raise ValueError(f"concat needs two or more parts, got {len(parts)}")
    return concat_alike(*_alike("concatenate", *parts))


def _alike(what: str, *parts: Any) -> Sequence[Any]:
    """Returns streams with one grid, or arrays."""
    symbols = [x for x in parts if isinstance(x, Symbol)]
    if symbols and len(symbols) < len(parts):
        symbols[0].refuse("a sum with something that is no result of a layer")
    grids = {bits for x in parts if (bits := _fraction_bits(x)) is not None}
    if len(grids) > 1:
        raise ValueError(
            f"cannot {what} streams with {sorted(grids)} fraction bits: give all of them one grid"
        )
    if not grids and all(is_a(x, Sums, Levels) for x in parts):
        grids = {fixed_point.FRACTION_BITS}
    for bits in grids:
        return [x if is_a(x, Stream) else to_stream(x, bits) for x in parts]
    return parts if symbols else [array_of(x) for x in parts]


def _fraction_bits(x: Any) -> int | None:
    stream = x.abstract if isinstance(x, Symbol) else x
    return stream.fraction_bits if isinstance(stream, Stream) else None


def _as_stream(x: Any) -> Any:
    """Rounds sums and levels to the grid of the residual stream; returns a stream or an array as it is."""
    return to_stream(x) if is_a(x, Sums, Levels) else x


def _places(window: int | Sequence[int], strides: int | Sequence[int] | None) -> tuple[Pair, Pair]:
    """Returns the size of a pooled window and its strides, which are the size if there are none."""
    size = pair(window, "window")
    return size, size if strides is None else pair(strides, "strides")


def _check_images(x: Any, function: str) -> None:
    if x.ndim != 4:
        raise ValueError(f"{function} expects images [N, H, W, C], got shape {x.shape}")


@recorded
def add_alike(a: Any, b: Any) -> Any:
    """Returns the sum of two streams with one grid, or of two arrays: what `add` does once both are of one kind."""
    bits = a.fraction_bits if isinstance(a, Stream) else None
    return with_value(a, fixed_point.saturating_add(array_of(a), array_of(b), bits))


@recorded
def concat_alike(*parts: Any) -> Any:
    """Returns the channels of streams with one grid, or of arrays: what `concat` does once all are of one kind."""
    return with_value(parts[0], jnp.concatenate([array_of(x) for x in parts], axis=-1))


def max_pool(
    x: Any,
    window: int | Sequence[int],
    strides: int | Sequence[int] | None = None,
    padding: Padding = "VALID",
) -> Any:
    """Returns the largest value of each window.

    Args:
      x: levels, a stream or an array `[N, H, W, C]`; sums are rounded to the stream's grid first.
      window: two numbers along H and W, or one for both.
      strides: likewise; None for the window.
      padding: see `nn.BinaryConv`, but without one there is none. A padded border is never the largest.

    Returns:
      `[N, H', W', C]` of the same kind, with `H' = (H + padding - window) // stride + 1`.

    Raises:
      ValueError: a number is not possible, or `x` has another rank.
    """
    _check_images(x, "max_pool")
    size, moves = _places(window, strides)
    x = x if is_a(x, Levels) else _as_stream(x)
    return largest_of_windows(x, window=size, strides=moves, padding=borders(padding, size))


@recorded
def largest_of_windows(x: Any, window: Pair, strides: Pair, padding: tuple[Pair, Pair]) -> Any:
    """Returns the largest value of each window: what `max_pool` does once `x` is levels, a stream or an array."""
    return with_value(x, nnx.max_pool(array_of(x), window, strides=strides, padding=padding))


def mean_pool(x: Any, window: int | Sequence[int], strides: int | Sequence[int] | None = None) -> Any:
    """Returns the mean of each window; that of a stream is rounded half up to its grid.

    Args:
      x: a stream or an array `[N, H, W, C]`; sums and levels are rounded to the stream's grid first.
      window: two numbers along H and W, or one for both.
      strides: likewise; None for the window.

    Returns:
      `[N, H', W', C]` of the same kind, with `H' = (H - window) // stride + 1`.

    Raises:
      ValueError: a number is not possible, or `x` has another rank.
    """
    _check_images(x, "mean_pool")
    size, moves = _places(window, strides)
    return mean_of_windows(_as_stream(x), window=size, strides=moves)


@recorded
def mean_of_windows(x: Any, window: Pair, strides: Pair) -> Any:
    """Returns the mean of each window: what `mean_pool` does once `x` is a stream or an array."""
    bits = x.fraction_bits if isinstance(x, Stream) else None
    return with_value(x, fixed_point.windowed_mean(array_of(x), bits, window, strides))


def global_mean(x: Any) -> Any:
    """Returns the mean over height and width; that of a stream is rounded half up to its grid.

    Args:
      x: a stream or an array `[N, H, W, C]`; sums and levels are rounded to the stream's grid first.

    Returns:
      `[N, C]` of the same kind.

    Raises:
      ValueError: `x` has another rank.
    """
    _check_images(x, "global_mean")
    return mean_of_image(_as_stream(x))


@recorded
def mean_of_image(x: Any) -> Any:
    """Returns the mean over height and width: what `global_mean` does once `x` is a stream or an array."""
    bits = x.fraction_bits if isinstance(x, Stream) else None
    return with_value(x, fixed_point.mean_pool(array_of(x), bits))


@recorded
def flatten(x: Any) -> Any:
    """Returns images `[N, H, W, C]` as vectors `[N, H * W * C]` of the same kind, in the order height, width, channel."""
    values = array_of(x)
    return with_value(x, values.reshape(values.shape[0], -1))
