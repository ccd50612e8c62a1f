"""Divides an `IntegerNetwork` into a program, which is compiled, and the constants that the program computes with.

A program depends only on a network's architecture: on its nodes, their shapes, and the levels of its quantizers. So
networks of one architecture share a compiled program, and what is trained further runs in it without a compilation.
"""

from typing import NamedTuple

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.jax import integers
from qresnet_jax.ship.jax.integers import Array
from qresnet_jax.ship.jax.planes import sign_words
from qresnet_jax.ship.network import IntegerNetwork

NARROW = 2**12  # from smaller sums, `fold` requantizes in 32 bits


class Step(NamedTuple):
    """What a program knows of a node."""

    kind: type[nodes.Node]
    inputs: tuple[int, ...]
    bound: int  # the largest |x| of its result, for any constants
    window: Window | None = Window((1, 1))  # None for the whole image
    groups: int = 1
    levels: tuple[int, ...] = ()  # those that its result may have, if it gives levels


class Program(NamedTuple):
    """What is compiled of a network; it can be hashed."""

    steps: tuple[Step, ...]
    image_shape: tuple[int | None, int | None, int]
    least_size: tuple[int, int]


class Stem(NamedTuple):
    """The constants of a `StemNode`."""

    weights: Array  # float32 [in, kh, kw, out]
    double_mean: Array  # int16 [in]


class Signs(NamedTuple):
    """The constants of a `BinaryConvNode`."""

    signs: Array  # int8 [in, kh, kw, out / groups]: each channel has signs for the outputs of its group
    words: Array  # from `sign_words`


class Classifier(NamedTuple):
    """The constants of a `ClassifierNode`."""

    weights: Array  # int32 [classes, channels * height * width], in this order
    bias: Array  # int32 [classes, 1]


Constants = (
    Stem | Signs | integers.Thresholds | integers.Whole | integers.Split | integers.Wide | Classifier | None
)


def lower(network: IntegerNetwork) -> tuple[Program, list[Constants]]:
    """Returns the program of a network, and the constants of each of its nodes."""
    steps: list[Step] = []
    constants: list[Constants] = []
    for node, value in zip(network.nodes, network.values, strict=True):
        step, its_constants = _lower(node, value, steps, [network.values[j] for j in node.inputs])
        steps.append(step)
        constants.append(its_constants)
    return Program(tuple(steps), network.image_shape, network.least_size), constants


def _lower(
    node: nodes.Node, value: nodes.Value, before: list[Step], inputs: list[nodes.Value]
) -> tuple[Step, Constants]:
    step = Step(type(node), node.inputs, value.bound)
    match node:
        case nodes.StemNode():
            # The bound of a stem's sums depends on its weights.
            step = step._replace(bound=nodes.ACC_LIMIT, window=node.window)
            weights = node.weights.transpose(2, 0, 1, 3)
            return step, Stem(weights.astype(np.float32), node.double_mean)
        case nodes.BinaryConvNode():
            signs = _channels_first(node.signs, node.groups)
            return step._replace(window=node.window, groups=node.groups), Signs(signs, sign_words(signs))
        case nodes.ThresholdsNode():
            step = step._replace(levels=tuple(node.levels.tolist()))
            return step, integers.threshold_constants(node, before[node.inputs[0]].bound)
        case nodes.RequantizeNode():
            is_narrow = before[node.inputs[0]].bound < NARROW
            return step, integers.requantizer_constants(node, inputs[0].bound, is_narrow)
        case nodes.MaxPoolNode():
            return step._replace(window=node.window, levels=before[node.inputs[0]].levels), None
        case nodes.MeanPoolNode():
            return step._replace(window=node.window), None
        case nodes.ClassifierNode():
            step = step._replace(bound=2**31 - 1)  # that of its sums depends on its weights, too
            height, width, channels = inputs[0].height.add, inputs[0].width.add, inputs[0].channels
            weights = node.weights.reshape(height, width, channels, -1).transpose(3, 2, 0, 1)
            weights = weights.reshape(len(weights), -1).astype(np.int32)
            return step, Classifier(weights, node.bias[:, None])
        case _:
            return step, None


def _channels_first(signs: np.ndarray, groups: int) -> np.ndarray:
    """Returns signs `[kh, kw, in / groups, out]` as `[in, kh, kw, out / groups]`."""
    kh, kw, features, _ = signs.shape
    signs = signs.reshape(kh, kw, features, groups, -1)
    return signs.transpose(3, 2, 0, 1, 4).reshape(groups * features, kh, kw, -1)
