"""Convolution and batch norm onto the residual stream: their results are rounded to the grid of the integers that ship."""

import jax

from qresnet_jax.nn.activations import FloatActivation, Quantizer
from qresnet_jax.nn.convolutions import BinaryConv, FloatConv, StemConv
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.quantize.fixed_point import round_to_grid


def to_stream(
    conv: BinaryConv | StemConv | FloatConv,
    norm: BatchNorm | None,
    x: jax.Array,
    act: Quantizer | FloatActivation | None,
    fraction_bits: int | None,
) -> jax.Array:
    """Convolves, normalises, and rounds to the residual stream's grid. The gradients are those of the float function.

    Args:
      conv: the convolution.
      norm: the batch norm behind the convolution, or None.
      x: input of the convolution, float `[N, H, W, C]`.
      act: the quantizer that made `x`, or None for the stem.
      fraction_bits: fraction bits of the grid, or None for a float stream, which is not rounded.

    Returns:
      The stream, float `[N, H', W', out]`.
    """
    step, max_level = (None, None) if act is None else (act.step, act.max_level)
    out = conv(x, step, max_level)
    return round_to_grid(out if norm is None else norm(out), fraction_bits)
