import dataclasses

import numpy as np
import pytest

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.network import IntegerNetwork

# The definitions once more, pixel by pixel, in Python's integers.


def conv_by_hand(x, kernel, stride):
    (n, height, width, _), (kh, kw, features, out) = x.shape, kernel.shape
    rows, columns = -(-height // stride), -(-width // stride)
    result = np.zeros((n, rows, columns, out), np.int64)
    for index in np.ndindex(result.shape):
        image, row, column, o = index
        total = 0
        for i, j in np.ndindex(kh, kw):
            y, z = row * stride + i - (kh - 1) // 2, column * stride + j - (kw - 1) // 2
            if 0 <= y < height and 0 <= z < width:
                total += sum(int(x[image, y, z, c]) * int(kernel[i, j, c, o]) for c in range(features))
        result[index] = total
    return result


def pool_by_hand(x):
    n, height, width, channels = x.shape
    result = np.zeros((n, -(-height // 2), -(-width // 2), channels), np.int64)
    for image, row, column, c in np.ndindex(result.shape):
        top, left = max(2 * row - 1, 0), max(2 * column - 1, 0)
        result[image, row, column, c] = x[image, top : 2 * row + 2, left : 2 * column + 2, c].max()
    return result


def saturate(x):
    return min(max(x, -32768), 32767)


def by_hand(node, images, *inputs):
    if isinstance(node, nodes.StemNode):
        centered = 2 * images.astype(np.int64) - node.double_mean
        return conv_by_hand(centered, node.weights, node.stride)
    if isinstance(node, nodes.BinaryConvNode):
        return conv_by_hand(inputs[0], node.signs, node.stride)
    if isinstance(node, nodes.MaxPoolNode):
        return pool_by_hand(inputs[0])
    if isinstance(node, nodes.MeanPoolNode):
        (x,) = inputs
        count = x.shape[1] * x.shape[2]
        # floor(mean + 1/2), exactly
        return np.array(
            [
                [(2 * int(image[..., c].sum()) + count) // (2 * count) for c in range(x.shape[3])]
                for image in x
            ]
        )
    if isinstance(node, nodes.ClassifierNode):
        x, w, b = inputs[0].astype(object), node.weights.astype(object), node.bias.astype(object)
        return x @ w + b
    result = np.zeros(inputs[0].shape, np.int64)
    for index in np.ndindex(result.shape):
        c, values = index[-1], [int(x[index]) for x in inputs]
        match node:
            case nodes.ThresholdsNode():
                row = c % len(node.thresholds)
                passed = sum(int(node.direction[row]) * values[0] >= int(t) for t in node.thresholds[row])
                result[index] = node.levels[passed]
            case nodes.RequantizeNode():
                m, offset, k = int(node.multiplier[c]), int(node.offset[c]), int(node.shift[c])
                result[index] = saturate((values[0] * m + offset) // 2**k)
            case nodes.AddNode():
                result[index] = saturate(sum(values))
            case nodes.ReluNode():
                result[index] = max(values[0], 0)
    return result


def random_network(seed):
    """All nodes, channels not divisible by 8, arrays over their whole ranges."""
    rng = np.random.default_rng(seed)
    limits = np.iinfo

    def signs(*shape):
        return rng.choice(np.array([-1, 1], np.int8), shape)

    def requantize(channels, *inputs):
        return nodes.RequantizeNode(
            inputs=inputs,
            multiplier=rng.integers(-(2**18), 2**18, channels).astype(np.int32),
            offset=rng.integers(-(2**30), 2**30, channels),
            shift=rng.integers(0, 20, channels).astype(np.uint8),
        )

    def thresholds(rows, n, reach, levels, *inputs):
        values = np.sort(rng.integers(-reach, reach + 1, (rows, n)), axis=1).astype(np.int32)
        direction = signs(rows)
        return nodes.ThresholdsNode(
            inputs=inputs, thresholds=values, direction=direction, levels=np.array(levels, np.int32)
        )

    return IntegerNetwork(
        (
            nodes.StemNode(
                weights=rng.integers(-60, 61, (7, 7, 2, 5)).astype(np.int16),
                double_mean=np.array([255, 18], np.int16),
                stride=2,
            ),
            requantize(5, 0),
            nodes.ReluNode(inputs=(1,)),
            nodes.MaxPoolNode(inputs=(1,)),
            thresholds(1, 3, 32768, [0, 1, 2, 3], 3),
            nodes.BinaryConvNode(inputs=(4,), signs=signs(3, 3, 5, 7)),
            thresholds(7, 4, 60, [0, 1, 2, 4, 8], 5),
            nodes.BinaryConvNode(inputs=(6,), signs=signs(3, 3, 7, 5), stride=2),
            requantize(5, 7),
            nodes.BinaryConvNode(inputs=(4,), signs=signs(1, 1, 5, 5), stride=2),
            requantize(5, 9),
            nodes.AddNode(inputs=(8, 10)),
            requantize(5, 11),
            nodes.MeanPoolNode(inputs=(12,)),
            nodes.ClassifierNode(
                inputs=(13,),
                weights=rng.integers(-1023, 1024, (5, 3)).astype(np.int16),
                bias=rng.integers(limits(np.int32).min // 2, limits(np.int32).max // 2, 3).astype(np.int32),
            ),
        ),
        fraction_bits=8,
        logit_scale=0.5,
    )


@pytest.mark.parametrize("size", [(9, 7), (8, 8), (1, 1)])
@pytest.mark.parametrize("seed", range(3))
def test_every_node_is_what_its_definition_says(size, seed, make_images):
    network, images = random_network(seed), make_images(2, (*size, 2), seed)
    values = reference.node_values(network, images)
    for i, node in enumerate(network.nodes):
        expected = by_hand(node, images, *(values[j] for j in node.inputs))
        np.testing.assert_array_equal(values[i], expected, err_msg=f"{i} {type(node).__name__}")


def test_shapes_kinds_and_ranges_are_those_inferred(trained, make_images):
    _, network = trained
    values = reference.node_values(network, make_images(2, (network.height, network.width, network.channels)))
    for i, value in enumerate(nodes.value_types(network.nodes)):
        assert values[i].shape[-1] == value.channels
        assert np.abs(values[i]).max() <= value.bound
        if value.reduction:
            assert values[i].shape[1:3] == tuple(
                -(-s // value.reduction) for s in (network.height, network.width)
            )


def test_largest_accumulators_are_exact():
    # 255 * 9 * 7281 = 16,709,895 is just below 2**24: float32 must count every single one.
    signs = np.ones((3, 3, 7281, 1), np.int8)
    signs[0, 0, 0] = -1
    network_signs = nodes.BinaryConvNode(inputs=(0,), signs=signs)
    x = np.full((1, 3, 3, 7281), 255)
    acc = reference._apply(network_signs, None, x)
    assert acc[0, 1, 1, 0] == 255 * (9 * 7281 - 2)


def test_batches_do_not_matter(trained_named, make_images):
    _, network = trained_named("basic pact")
    images = make_images(2 * reference.BATCH + 3, (8, 8, 3))
    together = reference.logits(network, images)
    one_by_one = [reference.logits(network, images[i : i + 1]) for i in range(len(images))]
    np.testing.assert_array_equal(together, np.concatenate(one_by_one))
    assert reference.logits(network, images[:0]).shape == (0, 5)


@pytest.mark.parametrize(
    "images, got",
    [
        (np.zeros((1, 8, 8, 3), np.float32), r"float32 \(1, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), r"uint8 \(8, 8, 3\)"),
        (np.zeros((1, 8, 9, 3), np.uint8), r"uint8 \(1, 8, 9, 3\)"),
        (np.zeros((1, 8, 8, 1), np.uint8), r"uint8 \(1, 8, 8, 1\)"),
        ([[[[0, 0, 0]] * 8] * 8], r"list \(1, 8, 8, 3\)"),
    ],
)
def test_other_images_are_refused(trained_named, images, got):
    _, network = trained_named("basic pact")
    with pytest.raises(ValueError, match=rf"images must be uint8 \[N, 8, 8, 3\], got {got}"):
        reference.logits(network, images)


def test_a_network_of_any_size_takes_any_size(trained_named):
    _, network = trained_named("basic pact")
    free = dataclasses.replace(network, height=None, width=None)
    assert reference.logits(free, np.zeros((1, 5, 11, 3), np.uint8)).shape == (1, 5)
    with pytest.raises(ValueError, match=r"\[N, H, W, 3\]"):
        reference.logits(free, np.zeros((1, 0, 5, 3), np.uint8))


def test_a_padded_border_never_wins_the_max_pool():
    x = np.full((1, 3, 3, 1), -5)
    assert np.all(reference._apply(nodes.MaxPoolNode(), None, x) == -5)


def _replaced(network, i, **changes):
    return [*network.nodes[:i], dataclasses.replace(network.nodes[i], **changes), *network.nodes[i + 1 :]]


@pytest.mark.parametrize(
    "i, changes, message",
    [
        (0, {"inputs": (0,)}, "inputs .0,. must be nodes before it"),
        (0, {"stride": 3}, "stride 3 must be 1 or 2"),
        (0, {"weights": np.full((7, 7, 2, 5), 999, np.int16)}, "sums reach"),
        (0, {"double_mean": np.array([511, 0], np.int16)}, "means must be 0 to 255"),
        (1, {"shift": np.full(5, 41, np.uint8)}, "shifts 0 to 40"),
        (1, {"shift": np.full(4, 1, np.uint8)}, "expected uint8 .5,., got uint8 .4,."),
        (2, {"inputs": (3,)}, "must be nodes before it"),
        (2, {"inputs": (0,)}, "needs stream, but its input is acc"),
        (4, {"inputs": (5,)}, "must be nodes before it"),
        (4, {"thresholds": np.array([[3, 2, 4]], np.int32)}, "must ascend"),
        (4, {"levels": np.array([0, 1, 1, 3], np.int32)}, "must ascend"),
        (5, {"signs": np.zeros((3, 3, 5, 7), np.int8)}, "signs must be -1 or"),
        (5, {"signs": np.ones((3, 3, 4, 7), np.int8)}, r"expected int8 \(None, None, 5, None\)"),
        (5, {"signs": np.ones((2, 3, 5, 7), np.int8)}, "must be odd"),
        (6, {"direction": np.zeros(7, np.int8)}, "directions must be"),
        (11, {"inputs": (8, 3)}, "cannot add"),
        (11, {"inputs": (8,)}, "Add"),
        (14, {"weights": np.full((5, 3), 32767, np.int16)}, "int32 holds less than 2..31"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(i, changes, message):
    with pytest.raises(ValueError, match=message):
        nodes.value_types(_replaced(random_network(0), i, **changes))


def test_networks_begin_with_the_stem_and_end_with_the_classifier():
    network = random_network(0)
    for wrong in (network.nodes[1:], network.nodes[:-1], (*network.nodes, network.nodes[-1]), ()):
        with pytest.raises(ValueError, match="stem|classifier"):
            nodes.value_types(wrong)
    for changes in ({"logit_scale": float("nan")}, {"fraction_bits": 16}, {"height": 0}):
        with pytest.raises(ValueError, match="must be"):
            dataclasses.replace(network, **changes)
