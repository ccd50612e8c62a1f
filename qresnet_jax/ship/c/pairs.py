"""Pairs the outputs of binary convolutions, which share the sum of the inputs that both add up."""

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.plan import Step


def paired(step: Step) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns which taps outputs add up, in an order in which two outputs share as much work as possible.

    Two outputs add up the taps that at least one of them needs. So their most frequent pair of signs is made the one that needs
    nothing, by turning all signs of an output, and its polarity with them. Outputs are paired greedily.

    Args:
      step: a step with a binary convolution.

    Returns:
      bool `[out, taps]`, whose second axis is in the order kh, kw, in; the channel of each output, `[out]`; and for each channel
      the polarity of its sums, +1 or -1, `[out]`.
    """
    conv = step.binary_conv
    plus = conv.signs.reshape(-1, conv.signs.shape[3]).T > 0
    fixed = np.zeros(len(plus), bool)
    if isinstance(step.last, nodes.RequantizeNode):
        fixed = step.last.multiplier == -(2**31)  # which has no negative
    order, turns = [], np.zeros(len(plus), bool)
    for outputs in np.split(np.arange(len(plus)), conv.groups):
        left = outputs.tolist()
        while left:
            first = left.pop(0)
            others = left or [first]
            counts = {  # of the taps with a pair of signs, for each other output, or less than 0 if it cannot be turned
                (x, y): np.where(y & fixed[others], -1, ((plus[first] == x) & (plus[others] == y)).sum(1))
                for x in (False, True)
                for y in (False, True)
                if not (x and fixed[first])
            }
            turn = max(counts, key=lambda turn: counts[turn].max())
            second = others[int(counts[turn].argmax())]
            turns[first], turns[second] = turn
            order += [first]
            if left:
                left.remove(second)
                order.append(second)
    return (plus ^ turns[:, None])[order], np.array(order), np.where(turns, -1, 1)
