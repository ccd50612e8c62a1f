import numpy as np
import pytest

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.jax.float_baseline import float_baseline
from qresnet_jax.ship.network import IntegerNetwork

STEM, CONV, MAX, MEAN = (
    Window((3, 2), (2, 1), ((2, 0), (0, 1))),
    Window((2, 3), (1, 2), ((1, 0), (2, 1))),
    Window((2, 2), (1, 2), ((0, 1), (1, 1))),
    Window((2, 1), (2, 2)),
)


@pytest.fixture
def network():
    """A stem, a max pool, a convolution of two groups, a concatenation, a mean, and a classifier of all pixels."""
    passes = {
        "multiplier": np.ones(4, np.int32),
        "offset": np.zeros(4, np.int64),
        "shift": np.zeros(4, np.uint8),
    }
    threshold = {
        "thresholds": np.zeros((1, 1), np.int32),
        "direction": np.ones(1, np.int8),
        "levels": np.arange(2, dtype=np.int32),
    }
    return IntegerNetwork(
        (
            nodes.StemNode(
                weights=np.ones((*STEM.size, 3, 4), np.int16),
                double_mean=np.zeros(3, np.int16),
                window=STEM,
            ),
            nodes.ThresholdsNode(inputs=(0,), **threshold),
            nodes.MaxPoolNode(inputs=(1,), window=MAX),
            nodes.BinaryConvNode(
                inputs=(2,), signs=np.ones((*CONV.size, 2, 4), np.int8), window=CONV, groups=2
            ),
            nodes.RequantizeNode(inputs=(3,), **passes),
            nodes.ReluNode(inputs=(4,)),
            nodes.ConcatNode(inputs=(4, 5)),
            nodes.MeanPoolNode(inputs=(6,), window=MEAN),
            nodes.ClassifierNode(
                inputs=(7,), weights=np.ones((2 * 2 * 8, 5), np.int16), bias=np.zeros(5, np.int32)
            ),
        ),
        fraction_bits=8,
        logit_scale=1.0,
        height=8,
        width=9,
    )


def test_every_layer_is_as_in_the_integer_network(network):
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 9, 3), np.uint8)
    run = float_baseline(network)
    weights = [None if part is None else part[0].astype(np.float64) for part in run.args[0]]
    x = reference._windows((images - 128.0) / 64, STEM)
    x = np.maximum(np.einsum("nhwtc,tco->nhwo", x, weights[0].reshape(6, 3, 4)), 0)
    x = reference._windows(x, MAX, border=-1).max(3)
    x = reference._windows(x, CONV).reshape(3, 4, 3, 6, 2, 2)
    kernel = weights[3].reshape(6, 2, 2, 2)  # tap, input, group, output
    x = np.einsum("nhwtgc,tcgo->nhwgo", x, kernel).reshape(3, 4, 3, 4)
    x = np.concatenate([x, np.maximum(x, 0)], axis=3)
    x = reference._windows(x, MEAN).mean(3)
    expected = x.reshape(3, -1) @ weights[8]
    np.testing.assert_allclose(run(images), expected, rtol=1e-4, atol=1e-4)
    assert np.ptp(expected, axis=0).min() > 0.01
