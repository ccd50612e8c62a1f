"""The reference engine against the definitions of the nodes, written once more, pixel by pixel."""

import dataclasses
import itertools

import numpy as np
import pytest

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.geometry import Window
from tests.ship.random_networks import random_network


def seen(x, window):
    """What a window sees: `(row, column, [(i, j, pixels [N, C])])` for each place; the border is left out."""
    (_, height, width, _), (kh, kw), (down, right) = x.shape, window.size, window.strides
    (top, bottom), (left, right_border) = window.padding
    tops = range(-top, height + bottom - kh + 1, down)
    lefts = range(-left, width + right_border - kw + 1, right)
    for (row, y), (column, z) in itertools.product(enumerate(tops), enumerate(lefts)):
        inside = [
            (i, j, x[:, y + i, z + j])
            for i, j in np.ndindex(kh, kw)
            if 0 <= y + i < height and 0 <= z + j < width
        ]
        yield row, column, inside


def on_places(x, window, channels, compute):
    """`compute(what the window sees)`, `[N, channels]`, at each place."""
    results = {(row, column): compute(inside) for row, column, inside in seen(x, window)}
    shape = [1 + max(index) for index in zip(*results, strict=True)]
    result = np.zeros((len(x), *shape, channels), np.int64)
    for (row, column), value in results.items():
        result[:, row, column] = value
    return result


def conv_by_hand(x, kernel, window, groups=1):
    *_, features, out = kernel.shape
    x, kernel, part = x.astype(np.int64), kernel.astype(np.int64), out // groups

    def sums(inside):
        total = np.zeros((len(x), out), np.int64)
        for (i, j, pixels), g in itertools.product(inside, range(groups)):
            of_group = slice(g * part, (g + 1) * part)
            total[:, of_group] += pixels[:, g * features : (g + 1) * features] @ kernel[i, j, :, of_group]
        return total

    return on_places(x, window, out, sums)


def mean_by_hand(x, window):
    """floor(mean + 1/2), exactly"""
    x = x.astype(np.int64)
    window = window or Window(x.shape[1:3])
    count = window.size[0] * window.size[1]
    return on_places(
        x, window, x.shape[3], lambda inside: (2 * sum(p for *_, p in inside) + count) // (2 * count)
    )


def max_by_hand(x, window):
    return on_places(x, window, x.shape[3], lambda inside: np.max([pixels for *_, pixels in inside], axis=0))


def classified_by_hand(node, x):
    """In Python's integers, which do not overflow."""
    _, height, width, channels = x.shape
    w = node.weights.astype(object).reshape(height, width, channels, -1)
    return node.bias.astype(object) + sum(
        np.outer(x[:, y, z, c].astype(object), w[y, z, c]) for y, z, c in np.ndindex(height, width, channels)
    )


def saturate(x):
    return min(max(x, -32768), 32767)


def by_hand(node, images, *inputs):
    match node:
        case nodes.StemNode():
            return conv_by_hand(2 * images.astype(np.int64) - node.double_mean, node.weights, node.window)
        case nodes.BinaryConvNode():
            return conv_by_hand(*inputs, node.signs, node.window, node.groups)
        case nodes.MaxPoolNode():
            return max_by_hand(*inputs, node.window)
        case nodes.MeanPoolNode():
            return mean_by_hand(*inputs, node.window)
        case nodes.ConcatNode():
            return np.concatenate(inputs, axis=-1)
        case nodes.ClassifierNode():
            return classified_by_hand(node, *inputs)
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


def kinds_of(network):
    """The kinds of nodes that a network has, in more detail than by their classes."""
    for node in network.nodes:
        yield type(node)
        window = getattr(node, "window", None)
        if window is not None and not window.is_centered:
            yield type(node), "window"
        if isinstance(node, nodes.BinaryConvNode) and node.groups > 1:
            yield type(node), "groups"
        if isinstance(node, nodes.MaxPoolNode | nodes.ClassifierNode):
            x = network.values[node.inputs[0]]
            yield type(node), x.kind, x.height.fixed == x.width.fixed == 1


SMALL = [seed for seed in range(200) if np.prod(random_network(seed)[1]) <= 24]
KINDS = {
    *(vars(nodes)[name] for name in dir(nodes) if name.endswith("Node") and name != "Node"),
    *(
        (kind, "window")
        for kind in (nodes.StemNode, nodes.BinaryConvNode, nodes.MaxPoolNode, nodes.MeanPoolNode)
    ),
    (nodes.BinaryConvNode, "groups"),
    (nodes.MaxPoolNode, "stream", False),
    (nodes.MaxPoolNode, "levels", False),
    (nodes.ClassifierNode, "stream", True),
    (nodes.ClassifierNode, "stream", False),
}


def test_small_random_networks_have_all_that_there_is():
    assert {kind for seed in SMALL for kind in kinds_of(random_network(seed)[0])} >= KINDS
    assert len(SMALL) > 20


@pytest.mark.parametrize("seed", SMALL)
def test_every_node_is_what_its_definition_says(seed, make_images):
    network, size = random_network(seed)
    images = make_images(3, (*size, network.channels), seed)
    values = reference.node_values(network, images)
    for i, node in enumerate(network.nodes):
        expected = by_hand(node, images, *(values[j] for j in node.inputs))
        np.testing.assert_array_equal(values[i], expected, err_msg=f"{i} {type(node).__name__}")


def assert_as_inferred(network, size, values):
    for i, value in enumerate(network.values[:-1]):
        assert values[i].shape[1:] == (value.height.at(size[0]), value.width.at(size[1]), value.channels)
        assert np.abs(values[i]).max() <= value.bound
    logits, value = values[len(network.nodes) - 1], network.values[-1]
    assert logits.shape[1:] == (value.channels,) and np.abs(logits.astype(np.int64)).max() <= value.bound


def test_shapes_and_ranges_of_trained_networks_are_those_inferred(trained, make_images):
    _, network = trained
    images = make_images(2, (network.height, network.width, network.channels))
    assert_as_inferred(network, images.shape[1:3], reference.node_values(network, images))


@pytest.mark.parametrize("seed", range(60))
def test_shapes_and_ranges_of_random_networks_are_those_inferred(seed, make_images):
    network, size = random_network(seed)
    images = make_images(2, (*size, network.channels))
    assert_as_inferred(network, size, reference.node_values(network, images))


def test_largest_accumulators_are_exact():
    # 255 * 9 * 7281 = 16,709,895 is just below 2**24: float32 must count every single one.
    signs = np.ones((3, 3, 7281, 1), np.int8)
    signs[0, 0, 0] = -1
    network_signs = nodes.BinaryConvNode(inputs=(0,), signs=signs, window=Window.centered((3, 3)))
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
    node = nodes.MaxPoolNode(window=Window.centered((3, 3), 2))
    assert np.all(reference._apply(node, None, x) == -5)
