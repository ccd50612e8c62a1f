"""Functions between layers: they keep what is known of the numbers, and have an integer form."""

from typing import Any

from flax import nnx

from qresnet_jax.nn.carriers import Stream, Sums, array_of, with_value
from qresnet_jax.nn.recording import Symbol, recorded
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
    """Rounds sums half up to the grid of the residual stream, and saturates; the gradient passes straight through.

    Args:
      x: float `[N, H, W, C]`, an array or `Sums`.
      fraction_bits: fraction bits of the grid, or None for a float stream, which is not rounded.

    Returns:
      A `Stream`, or the array of a float stream.
    """
    if fraction_bits is None:
        return array_of(x)
    return Stream(fixed_point.round_to_grid(array_of(x), fraction_bits), fraction_bits)


def add(a: Any, b: Any) -> Any:
    """Returns the sum of two streams, saturated to int16; sums are rounded to the grid first. Arrays are only added.

    Raises:
      ValueError: the streams have different grids.
    """
    for x, other in ((a, b), (b, a)):
        if isinstance(x, Symbol) and not isinstance(other, Symbol):
            x.refuse("a sum with something that is no result of a layer")
    grids = {bits for x in (a, b) if (bits := _fraction_bits(x)) is not None}
    if len(grids) > 1:
        raise ValueError(f"cannot add streams with {sorted(grids)} fraction bits: give all of them one grid")
    if not grids and is_a(a, Sums) and is_a(b, Sums):
        grids = {fixed_point.FRACTION_BITS}
    for bits in grids:
        a, b = (x if is_a(x, Stream) else to_stream(x, bits) for x in (a, b))
    return add_alike(a, b)


def _fraction_bits(x: Any) -> int | None:
    stream = x.abstract if isinstance(x, Symbol) else x
    return stream.fraction_bits if isinstance(stream, Stream) else None


@recorded
def add_alike(a: Any, b: Any) -> Any:
    """Returns the sum of two streams with one grid, or of two arrays: what `add` does once both are of one kind."""
    bits = a.fraction_bits if isinstance(a, Stream) else None
    return with_value(a, fixed_point.saturating_add(array_of(a), array_of(b), bits))


@recorded
def max_pool(
    x: Any, window: tuple[int, int], strides: tuple[int, int], padding: tuple[tuple[int, int], ...]
) -> Any:
    """Returns the largest value of each window of a stream or an array `[N, H, W, C]`; a padded border never wins."""
    return with_value(x, nnx.max_pool(array_of(x), window, strides=strides, padding=padding))


@recorded
def global_mean(x: Any) -> Any:
    """Returns the mean over height and width, `[N, C]`; that of a stream is rounded half up to its grid."""
    bits = x.fraction_bits if isinstance(x, Stream) else None
    return with_value(x, fixed_point.mean_pool(array_of(x), bits))
