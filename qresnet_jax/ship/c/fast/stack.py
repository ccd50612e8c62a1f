"""Chooses the steps that can run for several images at once, whose small planes fill whole vectors together.

The images lie one below the other, as one image with many rows. Most steps work on single pixels and need not know about that.
The taps of a convolution do: their masks keep each image from seeing the next one.
"""

import dataclasses
import itertools

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.fast.bitplanes import ALIGN, plane_bytes, stored
from qresnet_jax.ship.c.plan import IMAGE, Plan, Step
from qresnet_jax.ship.geometry import Window

IMAGES = 8
_MOST_BYTES = ALIGN // 2  # of a plane; larger ones fill the largest vectors as they are


@dataclasses.dataclass(frozen=True)
class Stack:
    """Steps for several images at once.

    Args:
      first, end: the first of these steps, and the first one after them.
      plan: these steps.
      inputs: results of the steps before them that are read later.
      outputs: results that the steps after them read.
    """

    first: int
    end: int
    plan: Plan
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def stack(plan: Plan) -> Stack | None:
    """Returns the run of such steps that has most of a plan's binary convolutions; None if there is no convolution in any."""
    longest, first, most = (0, 0), 0, 0
    for can, steps in itertools.groupby(plan.steps, lambda step: _can_stack(plan, step)):
        group = list(steps)
        convs = sum(step.conv is not None for step in group)
        if can and convs > most:
            longest, most = (first, first + len(group)), convs
        first += len(group)
    if most == 0:
        return None
    first, end = longest
    before, run, after = plan.steps[:first], plan.steps[first:end], plan.steps[end:]
    later = {x for step in after for x in step.operands}
    inputs = {step.result for step in before} & (later | {x for step in run for x in step.operands})
    outputs = later & (inputs | {step.result for step in run})
    stacked = dataclasses.replace(plan, steps=run)
    return Stack(first, end, stacked, tuple(sorted(inputs)), tuple(sorted(outputs)))


def _can_stack(plan: Plan, step: Step) -> bool:
    if step.source == IMAGE or isinstance(step.last, nodes.ClassifierNode) or plan.is_dense(step):
        return False
    before, after = (stored(plan.size(x)) for x in (step.source, step.result))
    if plane_bytes(after) > _MOST_BYTES:
        return False
    if isinstance(step.last, nodes.MaxPoolNode | nodes.MeanPoolNode):
        window = step.last.window
        if window is None or window != Window(window.strides, window.strides):
            return False
        if plan.size(step.source).height % window.strides[0]:
            return False  # a window would see two images
    elif step.conv is not None:
        window = step.binary_conv.window
        if not window.is_centered:
            return False  # only then masks hide the other images
    else:
        return True
    return before.height == after.height * window.strides[0]
