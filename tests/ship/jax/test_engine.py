import dataclasses
import functools
import gc
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.jax import engine as jax_engine
from qresnet_jax.ship.jax import trace as jax_trace
from qresnet_jax.ship.jax.lower import lower
from qresnet_jax.ship.network import IntegerNetwork


class Builder:
    """Adds random nodes whose results differ from image to image; it computes them as it goes."""

    def __init__(self, rng, images):
        self.rng, self.images = rng, images
        self.nodes, self.values = [], []

    def add(self, node):
        inputs = (self.values[j] for j in node.inputs)
        self.values.append(reference._apply(node, self.images, *inputs))
        self.nodes.append(node)
        return len(self.nodes) - 1

    def pick(self, *choices):
        return choices[self.rng.integers(len(choices))]

    def signs(self, *shape):
        return self.rng.choice(np.array([-1, 1], np.int8), shape)

    def channels(self, i):
        return self.values[i].shape[-1]

    def window(self, i, *kernels):
        """A centered window, or any that fits, or all of a small image."""
        size = self.values[i].shape[1:3] if i is not None else self.images.shape[1:3]
        if self.pick(True, False):
            return Window.centered(self.pick(*kernels), self.pick(1, 2))
        if max(size) < 5 and self.pick(True, False, False):
            return Window(size)
        kernel = tuple(self.rng.integers(1, 5, 2).tolist())
        padding = []
        for k, n in zip(kernel, size, strict=True):
            border = tuple(self.rng.integers(0, k, 2).tolist())
            padding.append(border if n + sum(border) >= k else (k - 1, k - 1))
        return Window(kernel, tuple(self.rng.integers(1, 4, 2).tolist()), tuple(padding))

    def stem(self, out):
        window = self.window(None, (1, 3), (3, 3), (5, 7))
        channels = self.images.shape[-1]
        return self.add(
            nodes.StemNode(
                weights=self.rng.integers(-150, 151, (*window.size, channels, out)).astype(np.int16),
                double_mean=self.rng.integers(0, 511, channels).astype(np.int16),
                window=window,
            )
        )

    def requantize(self, i):
        """To where some values saturate, with shifts of any length."""
        channels, largest = self.channels(i), max(1, np.abs(self.values[i]).max())
        shift = self.rng.integers(max(0, int(np.log2(largest)) - 10), 41, channels)
        gain = 2.0 ** (shift + 16) / largest * self.rng.uniform(-1, 1, channels)
        offset = 2.0 ** (shift + 13) * self.rng.uniform(-1, 1, channels)
        return self.add(
            nodes.RequantizeNode(
                inputs=(i,),
                multiplier=np.clip(gain, -(2**31), 2**31 - 1).astype(np.int32),
                offset=offset.astype(np.int64),
                shift=shift.astype(np.uint8),
            )
        )

    def thresholds(self, i, n):
        """At values that occur, and here and there at the ends of int32."""
        rows = self.pick(1, self.channels(i))
        direction = self.signs(rows)
        thresholds = self.rng.choice(self.values[i].ravel(), (rows, n)) * direction[:, None]
        is_extreme = self.rng.random((rows, n)) < 0.05
        thresholds[is_extreme] = self.rng.choice([-(2**31), 2**31 - 1], is_extreme.sum())
        gaps = np.concatenate([[0], np.sort(self.rng.choice(255, n, False) + 1)])
        return self.add(
            nodes.ThresholdsNode(
                inputs=(i,),
                thresholds=np.sort(thresholds, axis=1).astype(np.int32),
                direction=direction,
                levels=self.pick(np.arange(n + 1), gaps).astype(np.int32),
            )
        )

    def conv(self, i, window, out, groups=None):
        features = self.channels(i)
        groups = groups or self.pick(1, *(g for g in (2, features) if features % g == out % g == 0))
        signs = self.signs(*window.size, features // groups, out)
        return self.add(nodes.BinaryConvNode(inputs=(i,), signs=signs, window=window, groups=groups))

    def max_pool(self, i, window=None):
        return self.add(nodes.MaxPoolNode(inputs=(i,), window=window or self.window(i, (3, 3))))

    def mean_pool(self, i):
        size = tuple(int(self.pick(1, min(2, n), n)) for n in self.values[i].shape[1:3])
        return self.mean(i, self.pick(None, Window(size), Window(size, (2, 3))))

    def mean(self, i, window=None):
        return self.add(nodes.MeanPoolNode(inputs=(i,), window=window))

    def concat(self, *inputs):
        return self.add(nodes.ConcatNode(inputs=inputs))

    def classified(self, i):
        """`(network, images, logits)`."""
        features = self.values[i][0].size
        last = self.add(
            nodes.ClassifierNode(
                inputs=(i,),
                weights=(self.rng.integers(-50000, 50000, (features, 4)) // (features + 50)).astype(np.int16),
                bias=self.rng.integers(-(2**30), 2**30, 4).astype(np.int32),
            )
        )
        height, width = self.images.shape[1:3]
        network = IntegerNetwork(tuple(self.nodes), 8, 0.5, height=height, width=width)
        return network, self.images, self.values[last]


def random_network(seed, height, width):
    """`(network, images, logits)`: a stem and two blocks of random windows, groups, channels, levels, pools and joins."""
    rng = np.random.default_rng(seed)
    b = Builder(rng, rng.integers(0, 256, (3, height, width, rng.choice([1, 3])), np.uint8))
    stream = b.requantize(b.stem(b.pick(1, 5, 17)))
    if b.pick(True, False):
        stream = b.max_pool(stream)
    for _ in range(2):
        if b.pick(True, False):
            stream = b.add(nodes.ReluNode(inputs=(stream,)))
        q = b.thresholds(stream, b.pick(1, 3, 20))
        if b.pick(True, False):
            q = b.max_pool(q)
        out, window = b.pick(4, 32, 19), b.window(q, (3, 3), (5, 5), (1, 3))
        hidden = b.thresholds(b.conv(q, window, out), b.pick(1, 2, 7))
        y = b.requantize(b.conv(hidden, Window.centered(b.pick((3, 3), (1, 1))), out))
        shortcut = b.requantize(b.conv(q, window, out))
        join = b.pick(nodes.AddNode, nodes.ConcatNode)
        stream = b.add(join(inputs=(y, b.pick(shortcut, y))))
        if b.pick(True, False):
            stream = b.requantize(stream)
    return b.classified(b.mean_pool(stream) if b.pick(True, True, False) else stream)


def traced(network, processor):
    function = functools.partial(jax_trace.logits, *lower(network), processor=processor)
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})  # compiles faster


@settings(max_examples=10, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 11), st.integers(1, 11), st.booleans())
def test_any_network_is_exact(seed, height, width, processor):
    network, images, expected = random_network(seed, height, width)
    result = traced(network, processor)(images)
    assert result.dtype == jnp.int32
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("processor", [True, False])
@pytest.mark.parametrize("features, groups", [(32, 2), (6, 2), (6, 6)])
def test_groups_are_exact(features, groups, processor):
    """Of windows of any kind, and of those that are the whole image."""
    rng = np.random.default_rng(features)
    b = Builder(rng, rng.integers(0, 256, (3, 4, 5, 2), np.uint8))
    q = b.thresholds(b.stem(features), 3)
    size = b.values[q].shape[1:3]
    whole = b.requantize(b.conv(q, Window(size), 12, groups))
    other = b.requantize(b.conv(q, Window((2, 2), (2, 1), ((1, 0), (0, 1))), 12, groups))
    network, images, expected = b.classified(b.concat(whole, b.mean(other)))
    assert len(np.unique(expected, axis=0)) == 3
    np.testing.assert_array_equal(traced(network, processor)(images), expected)


@pytest.mark.parametrize("processor", [True, False])
def test_max_pools_are_exact(processor):
    """Of streams, whose borders may have negative numbers only, and of levels; also of whole images."""
    rng = np.random.default_rng(0)
    b = Builder(rng, rng.integers(0, 256, (3, 4, 5, 2), np.uint8))
    stream = b.requantize(b.stem(6))
    levels = b.thresholds(stream, 3)
    whole, padded = Window(b.values[stream].shape[1:3]), Window((2, 3), (1, 2), ((1, 0), (0, 2)))
    pooled = [b.mean(b.max_pool(stream, window)) for window in (whole, padded)]
    for window in (whole, padded):
        pooled.append(b.mean(b.requantize(b.conv(b.max_pool(levels, window), Window((1, 1)), 8, 1))))
    network, images, expected = b.classified(b.concat(*pooled))
    assert b.values[b.nodes[pooled[1]].inputs[0]].min() < 0
    np.testing.assert_array_equal(traced(network, processor)(images), expected)


def test_logits_of_random_networks_depend_on_the_image():
    logits = [random_network(seed, 7, 8)[2] for seed in range(20)]
    assert sum(len(np.unique(x, axis=0)) == 3 for x in logits) > 10


def test_trained_networks_are_exact(trained, make_images):
    _, network = trained
    images = make_images(19, (network.height, network.width, network.channels))
    result = jax_engine.logits(network, images)
    assert (result.dtype, result.shape) == (np.int32, (19, network.classes))
    np.testing.assert_array_equal(result, reference.logits(network, images))


@pytest.mark.parametrize("name", ["bottleneck fixed", "basic power_of_two", "basic lsq imagenet"])
def test_matrix_products_are_exact(name, trained_named, make_images):
    _, network = trained_named(name)
    images = make_images(5, (network.height, network.width, network.channels))
    expected = reference.logits(network, images)
    np.testing.assert_array_equal(traced(network, processor=False)(images), expected)


@pytest.fixture
def network(trained_named):
    return trained_named("basic pact")[1]


def test_a_network_compiles_for_one_image_and_for_one_batch(network, make_images):
    jax_engine._compiled.clear()
    images = make_images(2 * jax_engine.PROCESSOR_BATCH + 3, (8, 8, 3))
    expected = reference.logits(network, images)
    for n in (len(images), 1, 8, 9, jax_engine.PROCESSOR_BATCH, jax_engine.PROCESSOR_BATCH + 1):
        np.testing.assert_array_equal(jax_engine.logits(network, images[:n]), expected[:n])
    (run,) = jax_engine._compiled.values()
    assert run._cache_size() == 2


def test_no_images_give_no_logits(network):
    result = jax_engine.logits(network, np.zeros((0, 8, 8, 3), np.uint8))
    assert (result.dtype, result.shape) == (np.int32, (0, 5))
    with pytest.raises(ValueError, match="images must be at least one"):
        jax_engine.make_logits(network)(np.zeros((0, 8, 8, 3), np.uint8))


@pytest.mark.parametrize(
    "images, got",
    [
        (np.zeros((1, 8, 8, 3), np.float32), r"float32 \(1, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), np.uint8), r"uint8 \(8, 8, 3\)"),
        (np.zeros((1, 8, 9, 3), np.uint8), r"uint8 \(1, 8, 9, 3\)"),
    ],
)
def test_other_images_are_refused(network, images, got):
    for logits in (functools.partial(jax_engine.logits, network), jax_engine.make_logits(network)):
        with pytest.raises(ValueError, match=rf"images must be uint8 \[N, 8, 8, 3\], got {got}"):
            logits(images)


def test_images_below_the_least_size_are_refused(network):
    stem = dataclasses.replace(network.stem, window=Window(network.stem.window.size, (1, 1)))
    free = dataclasses.replace(network, nodes=(stem, *network.nodes[1:]), height=None, width=None)
    for logits in (functools.partial(jax_engine.logits, free), jax_engine.make_logits(free)):
        with pytest.raises(ValueError, match=r"at least 3 x 3 pixels for this network, got 2 x 9"):
            logits(np.zeros((1, 2, 9, 3), np.uint8))


def test_a_network_of_any_size_takes_any_size(network):
    free = dataclasses.replace(network, height=None, width=None)
    for size in ((5, 11), (1, 1)):
        images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
        expected = reference.logits(free, images)
        np.testing.assert_array_equal(jax_engine.logits(free, images), expected)


def test_networks_are_not_kept_alive(network):
    copy = dataclasses.replace(network)
    jax_engine.logits(copy, np.zeros((1, 8, 8, 3), np.uint8))
    assert copy in jax_engine._compiled
    reference = weakref.ref(copy)
    del copy
    gc.collect()
    assert reference() is None


def test_what_is_made_lives_without_its_network_and_inside_other_functions(network, make_images):
    images = make_images(2, (8, 8, 3))
    run = jax_engine.make_logits(dataclasses.replace(network))
    gc.collect()
    flipped = jax.jit(lambda x: run(255 - x))(jnp.asarray(images))
    np.testing.assert_array_equal(flipped, reference.logits(network, 255 - images))


def test_exported_networks_are_exact_for_any_number_of_images(network, make_images):
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, 8, 8, 3), np.uint8)
    exported = jax.export.export(jax_engine.make_logits(network), platforms=("cpu", "cuda", "tpu"))(shape)
    again = jax.export.deserialize(exported.serialize())
    for count in (1, 3):
        images = make_images(count, (8, 8, 3))
        np.testing.assert_array_equal(again.call(images), reference.logits(network, images))


def test_networks_of_any_windows_are_exported_for_any_number_of_images():
    network, images, expected = random_network(6, 7, 8)
    (n,) = jax.export.symbolic_shape("n")
    shape = jax.ShapeDtypeStruct((n, *network.image_shape), np.uint8)
    exported = jax.export.export(jax_engine.make_logits(network), platforms=("cpu",))(shape)
    np.testing.assert_array_equal(exported.call(images), expected)


def test_only_processors_get_conditionals(network):
    """Elsewhere a conditional waits for its flag."""
    text = {
        platform: traced(network, processor).trace(np.zeros((2, 8, 8, 3), np.uint8)).lower().as_text()
        for platform, processor in (("cpu", True), ("other", False))
    }
    assert "stablehlo.case" in text["cpu"]
    assert "stablehlo.popcnt" in text["cpu"]
    assert "stablehlo.case" not in text["other"]
    assert "stablehlo.popcnt" not in text["other"]
