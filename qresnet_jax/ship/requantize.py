"""Turns scale and batch norm in front of the residual stream into integers.

stream = (acc * M + C) >> k          M, C, k per channel, saturated to int16
"""

import numpy as np

from qresnet_jax.ship import nodes

_SPLIT = 12
_MULTIPLIER_BITS = 18  # magnitude of M; with its sign, 19 bits


def requantizer(
    multiplier: np.ndarray, offset: np.ndarray, bound: int, fraction_bits: int
) -> nodes.RequantizeNode:
    """Rounds the function `acc * multiplier + offset` to the integers that compute it on the stream's grid.

    Each channel has its own k, the largest for which `acc * M + C` keeps within a fixed width for every possible
    accumulator. The width is int32 while accumulators have up to 12 bits (2-bit activations, up to 128 channels),
    else 43 bits. So nothing can overflow, and the huge multiplier of a dead channel does not make those of its
    neighbours coarser. C includes the half unit that turns the shift's floor into rounding half up.

    With 43 bits, all intermediate values still fit int32 if the product is computed in two parts: with
    `S = min(k, 12)`, `acc = high * 2**S + low` (`0 <= low < 2**S`) and C split in the same way, nested floors give

        (acc * M + C) >> k = (high * M + C_high + ((low * M + C_low) >> S)) >> (k - S)

    Args:
      multiplier: float64 `[C]`.
      offset: float64 `[C]`, in real units (not in units of the grid).
      bound: the largest possible `|acc|`, at most `2**24`.
      fraction_bits: fraction bits of the grid.

    Returns:
      A node without name and inputs, with `|M| < 2**18` and k from 0 to 36.
    """
    # No trained multiplier comes near these limits. They keep absurd values from overflowing.
    steepest, farthest = 2.0 ** (29 - fraction_bits) / bound, 2.0 ** (28 - fraction_bits)
    multiplier = multiplier.clip(-steepest, steepest)
    offset = offset.clip(-farthest, farthest)
    width = 30 if bound < 2**12 else 42
    largest = np.abs(multiplier) * bound + np.abs(offset) + 1
    shift = np.minimum(
        width - fraction_bits - _exponent(largest), _MULTIPLIER_BITS - fraction_bits - _exponent(multiplier)
    ).clip(0, _SPLIT + 24)
    limit = 2**_MULTIPLIER_BITS - 1
    m = np.rint(np.ldexp(multiplier, fraction_bits + shift)).clip(-limit, limit)
    c = np.rint(np.ldexp(offset, fraction_bits + shift))
    half = np.where(shift > 0, 2.0 ** (shift - 1), 0)
    return nodes.RequantizeNode(
        multiplier=m.astype(np.int32), offset=(c + half).astype(np.int64), shift=shift.astype(np.uint8)
    )


def _exponent(x: np.ndarray) -> np.ndarray:
    """Returns the least integer e with `|x| < 2**e`, and 0 for `x = 0`."""
    return np.frexp(np.abs(x))[1]
