"""Turns batch norm, ReLU and quantizer into integer thresholds, by evaluating the trained formula in float64.

Everything between a sum and the next level (scale s, step alpha / n, batch norm, ReLU, quantizer) is one
function of the integer sum: a staircase that rises if gamma is positive, and falls if it is negative. Each
stair is found by bisection over all integers that the sum can be:

    threshold_i = min {x : level_index(direction * x) >= i},    i = 1 .. n

So nothing is rounded: at every possible sum the integer network has the level of the formula, ties included.
Training computes the formula in float32, and may differ where it comes within 1e-6 of a tie.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from qresnet_jax import nn
from qresnet_jax.ship import nodes

Affine = tuple[
    np.ndarray, np.ndarray
]  # multiplier and offset, float64 [C], or [1] if all channels have the same


def fold_quantizer(
    act: nn.Quantizer,
    unit: npt.ArrayLike,
    multiplier: np.ndarray,
    offset: np.ndarray,
    bound: int,
    inner: Sequence[Affine] = (),
) -> nodes.ThresholdsNode:
    """Folds batch norm, ReLU and quantizer of `integer * unit` into thresholds on the integer.

    Args:
      act: the quantizer.
      unit: what one unit of the integer is worth, scalar or `[C]`.
      multiplier, offset: of the batch norm, float64 `[C]`, or `[1]` if all channels have the same.
      bound: the largest possible magnitude of the integer.
      inner: what stands in front of the batch norm: for each `(multiplier, offset)`, `max(x * multiplier + offset, 0)`.
    """
    unit = np.asarray(unit, np.float64)
    functions = [*inner, (multiplier, offset)]
    shape = np.broadcast_shapes(unit.shape, *(x.shape for function in functions for x in function))
    signs = [np.broadcast_to(np.where(m < 0, -1, 1), shape) for m, _ in functions]
    direction = np.prod(signs, axis=0).astype(np.int8)

    def stairs(x: np.ndarray) -> np.ndarray:
        value = x * unit
        for inner_multiplier, inner_offset in inner:
            value = np.maximum(value * inner_multiplier + inner_offset, 0)
        return act.level_index(value * multiplier + offset)

    thresholds = find_thresholds(stairs, direction, bound, len(act.levels) - 1)
    return nodes.ThresholdsNode(
        thresholds=thresholds, direction=direction, levels=np.array(act.levels, np.int32)
    )


def find_thresholds(
    stairs: Callable[[np.ndarray], np.ndarray], direction: np.ndarray, bound: int, n: int
) -> np.ndarray:
    """Finds `min {x : stairs(direction * x) >= i}` for i = 1 .. n, by bisection over the integers `-bound .. bound`.

    Args:
      stairs: a function from integers `[n, C]` to integers 0 .. n, `[n, C]`. It must not fall as x moves in
        `direction`.
      direction: -1 or +1, `[C]`.
      bound: the largest `|x|`.
      n: number of stairs.

    Returns:
      int32 `[C, n]`, with `bound + 1` for stairs that no x reaches.
    """
    stair = np.arange(1, n + 1)[:, None]
    low = np.full((n, len(direction)), -bound)
    high = np.full_like(low, bound + 1)
    while np.any(low < high):
        middle = (low + high) // 2
        reached = (middle <= bound) & (stairs(direction * middle) >= stair)
        low, high = np.where(reached, low, np.minimum(middle + 1, high)), np.where(reached, middle, high)
    return low.T.astype(np.int32)
