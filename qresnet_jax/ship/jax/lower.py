"""Divides an `IntegerNetwork` into a program, which is compiled, and the constants that the program computes with.

A program depends only on a network's architecture: on its nodes, their shapes, and the levels of its quantizers. So
networks of one architecture share a compiled program, and what is trained further runs in it without a compilation.
"""

from typing import NamedTuple

import numpy as np

from qresnet_jax.ship import nodes
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
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    levels: tuple[int, ...] = ()  # of a `ThresholdsNode`


class Program(NamedTuple):
    """What is compiled of a network; it can be hashed."""

    steps: tuple[Step, ...]
    image_shape: tuple[int | None, int | None, int]


class Stem(NamedTuple):
    """The constants of a `StemNode`."""

    weights: Array  # float32 [kh, kw, in, out]
    double_mean: Array  # int16 [in]


class Signs(NamedTuple):
    """The constants of a `BinaryConvNode`."""

    signs: Array  # int8 [kh, kw, in, out]
    words: Array  # from `sign_words`


class Classifier(NamedTuple):
    """The constants of a `ClassifierNode`."""

    weights: Array  # int32 [classes, in]
    bias: Array  # int32 [classes, 1]


Constants = (
    Stem | Signs | integers.Thresholds | integers.Whole | integers.Split | integers.Wide | Classifier | None
)


def lower(network: IntegerNetwork) -> tuple[Program, list[Constants]]:
    """Returns the program of a network, and the constants of each of its nodes."""
    steps: list[Step] = []
    constants: list[Constants] = []
    values = nodes.value_types(network.nodes)
    for node, value in zip(network.nodes, values, strict=True):
        step, its_constants = _lower(node, value, steps, [values[j] for j in node.inputs])
        steps.append(step)
        constants.append(its_constants)
    return Program(tuple(steps), network.image_shape), constants


def _lower(
    node: nodes.Node, value: nodes.Value, before: list[Step], inputs: list[nodes.Value]
) -> tuple[Step, Constants]:
    step = Step(type(node), node.inputs, value.bound)
    match node:
        case nodes.StemNode():
            # The bound of a stem's sums depends on its weights.
            step = step._replace(bound=nodes.ACC_LIMIT, kernel=node.weights.shape[:2], stride=node.stride)
            return step, Stem(node.weights.astype(np.float32), node.double_mean)
        case nodes.BinaryConvNode():
            step = step._replace(kernel=node.signs.shape[:2], stride=node.stride)
            return step, Signs(node.signs, sign_words(node.signs))
        case nodes.ThresholdsNode():
            step = step._replace(levels=tuple(node.levels.tolist()))
            return step, integers.threshold_constants(node, before[node.inputs[0]].bound)
        case nodes.RequantizeNode():
            is_narrow = before[node.inputs[0]].bound < NARROW
            return step, integers.requantizer_constants(node, inputs[0].bound, is_narrow)
        case nodes.MaxPoolNode():
            return step._replace(kernel=(3, 3), stride=2), None
        case nodes.ClassifierNode():
            step = step._replace(bound=2**31 - 1)  # that of its sums depends on its weights, too
            return step, Classifier(node.weights.T.astype(np.int32), node.bias[:, None])
        case _:
            return step, None
