"""A small network with every node, for images of any size."""

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window

RNG = np.random.default_rng(0)


def signs(*shape):
    return RNG.choice(np.array([-1, 1], np.int8), shape)


def requantize(channels, *inputs):
    return nodes.RequantizeNode(
        inputs=inputs,
        multiplier=RNG.integers(-(2**18), 2**18, channels).astype(np.int32),
        offset=RNG.integers(-(2**30), 2**30, channels),
        shift=RNG.integers(0, 20, channels).astype(np.uint8),
    )


def thresholds(rows, levels, *inputs):
    values = np.sort(RNG.integers(-60, 61, (rows, len(levels) - 1)), axis=1).astype(np.int32)
    return nodes.ThresholdsNode(
        inputs=inputs, thresholds=values, direction=signs(rows), levels=np.array(levels, np.int32)
    )


NODES = (
    nodes.StemNode(
        weights=RNG.integers(-60, 61, (7, 7, 2, 5)).astype(np.int16),
        double_mean=np.array([255, 18], np.int16),
        window=Window.centered((7, 7), 2),
    ),
    requantize(5, 0),
    nodes.ReluNode(inputs=(1,)),
    nodes.MaxPoolNode(inputs=(1,), window=Window.centered((3, 3), 2)),
    thresholds(1, [0, 1, 2, 3], 3),
    nodes.BinaryConvNode(inputs=(4,), signs=signs(3, 3, 5, 8), window=Window.centered((3, 3))),
    thresholds(8, [0, 1, 2, 4, 8], 5),
    nodes.BinaryConvNode(
        inputs=(6,), signs=signs(2, 3, 2, 12), window=Window((2, 3), (2, 1), ((0, 0), (2, 0))), groups=4
    ),
    requantize(12, 7),
    nodes.ReluNode(inputs=(8,)),
    nodes.ConcatNode(inputs=(8, 9)),
    nodes.MeanPoolNode(inputs=(10,), window=Window((2, 1), (1, 3))),
    nodes.MeanPoolNode(inputs=(11,)),
    nodes.AddNode(inputs=(12, 12)),
    nodes.ClassifierNode(
        inputs=(13,),
        weights=RNG.integers(-1023, 1024, (24, 3)).astype(np.int16),
        bias=RNG.integers(-(2**20), 2**20, 3).astype(np.int32),
    ),
)
