"""Convolution and batch norm onto the residual stream: rounded in training, and in evaluation the integers that ship."""

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
    """Convolves, normalises, and rounds to the residual stream's grid.

    In training mode the batch norm uses the statistics of the batch, and the result is rounded. In evaluation
    mode the result is, to the bit, that of the integers that ship: accumulator, rounded multiplier and
    offset, shift. In both modes the gradients are those of the float function.

    Args:
      conv: `BinaryConv` or `StemConv`, or `FloatConv` with `fraction_bits=None`.
      norm: the batch norm behind the convolution, or None.
      x: input of the convolution, float `[N, H, W, C]`.
      act: the quantizer that made `x`, or None for the stem.
      fraction_bits: fraction bits of the grid. With None, the float function is computed, without rounding.

    Returns:
      The stream, float `[N, H', W', out]`.
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
    """Applies a batch norm to a stream `[N, H, W, C]`, and rounds the result as `to_stream` does."""
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
