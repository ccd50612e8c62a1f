"""Small networks for the profile `small`, node by node."""

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork
from tests.ship.random_networks import Builder

SIZE = (6, 5)


def finished(build, x, channels):
    """The network that classifies a stream."""
    height, width = build.sizes[x]
    features = height * width * channels
    weights = build.rng.integers(-30, 31, (features, 3)).astype(np.int16)
    build.add(nodes.ClassifierNode(inputs=(x,), weights=weights, bias=np.zeros(3, np.int32)))
    height, width = build.image_size
    return IntegerNetwork(tuple(build.nodes), 8, 0.5, height=height, width=width)


def rescaled(build, x, multiplier, offset):
    """The position of a stream, saturated: x * multiplier + offset, with a number for each channel."""
    constants = {"multiplier": np.int32(multiplier), "offset": np.int64(offset)}
    shift = np.zeros(len(multiplier), np.uint8)
    return build.add(nodes.RequantizeNode(inputs=(x,), shift=shift, **constants))


def begun(channels, size=SIZE):
    """A builder and the position of a stream with numbers of both signs."""
    build = Builder(np.random.default_rng(channels), 3, size)
    weights = build.rng.integers(-9, 10, (1, 1, 3, channels)).astype(np.int16)
    mean = np.full(3, 255, np.int16)
    stem = build.add(nodes.StemNode(weights=weights, double_mean=mean, window=Window((1, 1))))
    return build, rescaled(build, stem, [1] * channels, [0] * channels)


def quantized(build, x, channels, top, reach=3000):
    """The position of levels 0 .. top."""
    thresholds = np.sort(build.rng.integers(-reach, reach, (channels, top)), axis=1).astype(np.int32)
    direction, levels = build.signs(channels), np.arange(top + 1, dtype=np.int32)
    return build.add(
        nodes.ThresholdsNode(inputs=(x,), thresholds=thresholds, direction=direction, levels=levels)
    )


def convolved(build, x, channels, out, window=Window((1, 1)), groups=1, signs=None):  # noqa: B008
    """The position of the sums of a binary convolution."""
    if signs is None:
        signs = build.signs(*window.size, channels // groups, out)
    return build.add(nodes.BinaryConvNode(inputs=(x,), signs=signs, window=window, groups=groups))
