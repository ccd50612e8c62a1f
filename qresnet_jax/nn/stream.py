"""From convolution and batch norm to the residual stream: in training rounded, in evaluation the integers that ship."""

import jax
import jax.numpy as jnp

from qresnet_jax.nn.activations import FloatActivation, Quantizer
from qresnet_jax.nn.convolutions import BinaryConv, FloatConv, StemConv
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.quantize import fixed_point
from qresnet_jax.quantize.straight_through import straight_through


def to_stream(
    conv: BinaryConv | StemConv | FloatConv,
    norm: BatchNorm | None,
    x: jax.Array,
    act: Quantizer | FloatActivation | None,
    fraction_bits: int | None,
) -> jax.Array:
    """Convolution, batch norm (None for none), rounding to the residual stream's grid.

    In training mode batch statistics normalise, and the result is rounded. In evaluation mode the integers that ship
    are computed, to the bit: accumulator, rounded multiplier and offset, shift. Gradients are those of the float
    function in both. `fraction_bits=None` is the float function itself.

    Args:
      conv: `BinaryConv` or `StemConv` (with `fraction_bits=None` also `FloatConv`).
      norm: follows the convolution.
      x: input of the convolution, `[N, H, W, C]`.
      act: the quantizer that made x, or None for the stem.
      fraction_bits: of the grid.
    """
    step, max_level = (None, None) if act is None else (act.step, act.max_level)
    out = conv(x, step, max_level)
    out = out if norm is None else norm(out)
    if fraction_bits is None:
        return out
    if norm is not None and not norm.use_running_average:
        return fixed_point.round_to_grid(out, fraction_bits)
    assert not isinstance(conv, FloatConv)  # whose network has no grid
    acc, factor = conv.accumulate(x, step, max_level)
    if isinstance(conv, StemConv):
        acc_max = conv.acc_max()
    else:
        assert max_level is not None  # a network on a grid has quantizers everywhere
        acc_max = conv.acc_max(max_level)
    return straight_through(_requantized(acc, factor, norm, acc_max, fraction_bits), out)


def renormalize(norm: BatchNorm, stream: jax.Array, fraction_bits: int | None) -> jax.Array:
    """Batch norm from stream to stream, rounded as in `to_stream`."""
    out = norm(stream)
    if fraction_bits is None:
        return out
    if not norm.use_running_average:
        return fixed_point.round_to_grid(out, fraction_bits)
    unit = jnp.float32(2.0**-fraction_bits)
    exact = _requantized(stream / unit, unit, norm, fixed_point.STREAM_MAX + 1, fraction_bits)
    return straight_through(exact, out)


def _requantized(
    acc: jax.Array, factor: jax.Array, norm: BatchNorm | None, acc_max: int, fraction_bits: int
) -> jax.Array:
    channels = acc.shape[-1]
    multiplier, offset = (jnp.ones(channels), jnp.zeros(channels)) if norm is None else norm.affine()
    constants = fixed_point.requantizer(multiplier * factor, offset, acc_max, fraction_bits)
    return fixed_point.requantize(acc, constants, fraction_bits)
