"""Reads the layers of a trained network in float64 NumPy, which computes the same on every platform."""

import jax
import numpy as np
from flax import nnx

from qresnet_jax import nn, pixels
from qresnet_jax.quantize import fixed_point


def array(variable: nnx.Variable[jax.Array]) -> np.ndarray:
    """Returns a variable's values as float64."""
    return np.asarray(variable[...], np.float64)


def signs(conv: nn.BinaryConv) -> np.ndarray:
    """Returns the signs of a binary kernel, int8 `[kh, kw, in, out]`."""
    return np.where(array(conv.kernel) >= 0, 1, -1).astype(np.int8)


def step_of(act: nn.Quantizer) -> float:
    """Returns what one level of a quantizer is worth."""
    return float(act.clipping_level) / act.max_level


def unit_of_levels(conv: nn.BinaryConv, act: nn.Quantizer) -> np.ndarray:
    """Returns what one unit of a binary convolution's sums is worth.

    Args:
      conv: a binary convolution.
      act: the quantizer that makes its input.

    Returns:
      float64 `[]`, or `[out]` with one scale per channel.
    """
    size = np.abs(array(conv.kernel))
    scale = np.asarray(size.mean() if conv.scale == "layer" else size.mean((0, 1, 2)))
    return scale * step_of(act)


def stem_weights(stem: nn.StemConv) -> tuple[np.ndarray, np.ndarray]:
    """Returns a stem's integer weights, and what one unit of their sums is worth.

    Returns:
      `(weights, unit)`: int16 `[kh, kw, in, out]` and float64 `[out]`.
    """
    assert stem.weight_bits is not None  # a float convolution has no integers
    kernel = array(stem.kernel)
    unit = fixed_point.stem_unit(kernel, stem.weight_bits)
    return np.rint(kernel / unit).astype(np.int16), unit / pixels.UNITS


def classifier_weights(
    classifier: nn.Classifier, step: float | None = None
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the integers of a classifier: logits are `unit * (features @ weights + bias)`, of integer features.

    Args:
      classifier: the layer.
      step: what one unit of the features is worth; None for that of the stream.

    Returns:
      `(weights, bias, unit)`: int16 `[in, classes]`, int32 `[classes]`, and the unit.
    """
    assert classifier.fraction_bits is not None  # a float layer has no integers
    kernel = array(classifier.kernel)
    factor = fixed_point.classifier_unit(kernel)
    weights = np.rint(kernel / factor)
    unit = factor * (2.0**-classifier.fraction_bits if step is None else step)
    room = fixed_point.bias_room(weights)
    bias = np.rint(array(classifier.bias) / unit).clip(-room, room)
    return weights.astype(np.int16), bias.astype(np.int32), float(unit)


def affine(norm: nn.BatchNorm | None) -> tuple[np.ndarray, np.ndarray]:
    """Returns `(multiplier, offset)` of a batch norm with its running statistics, `x * multiplier + offset`.

    Args:
      norm: the batch norm, or None for the identity.

    Returns:
      float64 `[C]` each, or `[1]` for the identity.
    """
    if norm is None:
        return np.ones(1), np.zeros(1)
    multiplier = array(norm.scale) / np.sqrt(array(norm.var) + norm.epsilon)
    return multiplier, array(norm.bias) - array(norm.mean) * multiplier
