"""Networks that are written with our layers, but not by us: every engine computes what their own `__call__` does."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn as qnn
from qresnet_jax.errors import ExportError
from qresnet_jax.pixels import normalize
from qresnet_jax.ship import reference
from qresnet_jax.ship.costs import layer_table, totals
from qresnet_jax.ship.fold import fold
from qresnet_jax.ship.folding import IntegerLevels, fold_rule
from qresnet_jax.ship.load import ENGINES, PackedNetwork
from qresnet_jax.ship.onnx.qonnx import qonnx_model
from tests.ship.conftest import as_trained

MEAN = np.float32([127.5])


class Plain(nnx.Module):
    """No residuals: the quantizer behind the stem reads its sums, and the stream is only what the mean is taken of."""

    def __init__(self, rngs):
        self.first, self.norm0, self.act0 = (
            qnn.StemConv(1, 6, 3, rngs=rngs),
            qnn.BatchNorm(6, rngs=rngs),
            qnn.PACT(2),
        )
        self.second, self.norm1 = qnn.BinaryConv(6, 9, 3, 2, rngs=rngs), qnn.BatchNorm(9, rngs=rngs)
        self.head = qnn.Classifier(9, 4, fraction_bits=6, rngs=rngs)

    def __call__(self, images):
        x = self.act0(qnn.relu(self.norm0(self.first(images))))
        x = qnn.relu(self.norm1(self.second(x)))
        return self.head(qnn.global_mean(qnn.to_stream(x, 6)))


def test_a_network_whose_code_has_changed_is_folded_as_it_is_now(monkeypatch):
    """As in a notebook, where a class is edited after its network has been folded."""

    def without_relu(self, images):
        x = self.norm1(self.second(self.act0(self.norm0(self.first(images)))))
        return self.head(qnn.global_mean(qnn.to_stream(x, 6)))

    model = Plain(nnx.Rngs(0))
    before = fold(model, mean=MEAN)
    monkeypatch.setattr(Plain, "__call__", without_relu)
    now = fold(model, mean=MEAN)
    assert [type(node) for node in now.nodes] != [type(node) for node in before.nodes]


class Residual(nnx.Module):
    """A module inside another, sums that `+` rounds to the grid, a value with three readers, and two batch norms in a row."""

    def __init__(self, rngs):
        self.stem, self.norm = qnn.StemConv(1, 8, 3, rngs=rngs), qnn.BatchNorm(8, rngs=rngs)
        self.part = Part(rngs)
        self.head = qnn.Classifier(8, 3, rngs=rngs)

    def __call__(self, images):
        x = qnn.relu(qnn.to_stream(self.norm(self.stem(images))))
        x = self.part(x) + x
        return self.head(qnn.global_mean(x))


class Part(nnx.Module):
    def __init__(self, rngs):
        self.act, self.conv = qnn.LSQ(3), qnn.BinaryConv(8, 8, 3, scale="channel", rngs=rngs)
        self.other = qnn.BinaryConv(8, 8, 1, rngs=rngs)
        self.norms = nnx.List([qnn.BatchNorm(8, rngs=rngs), qnn.BatchNorm(8, rngs=rngs)])

    def __call__(self, x):
        levels = self.act(x)
        y = self.norms[1](self.norms[0](self.conv(levels)))
        return qnn.relu(y + x) + self.other(levels)


class Perceptron(nnx.Module):
    """Dense layers on pixels, on levels, and a classifier on levels."""

    def __init__(self, rngs):
        self.first, self.norm0, self.act0 = (
            qnn.StemDense(56, 20, rngs=rngs),
            qnn.BatchNorm(20, rngs=rngs),
            qnn.PACT(2),
        )
        self.dense = qnn.BinaryDense(20, 12, scale="channel", rngs=rngs)
        self.norm1, self.drop, self.act1 = (
            qnn.BatchNorm(12, rngs=rngs),
            qnn.Dropout(0.3, rngs=rngs),
            qnn.PACT(3),
        )
        self.head = qnn.Classifier(12, 5, rngs=rngs)

    def __call__(self, images):
        x = self.act0(self.norm0(self.first(qnn.flatten(images))))
        return self.head(self.drop(self.act1(qnn.relu(self.norm1(self.dense(x))))))


class Vgg(nnx.Module):
    """Groups, other paddings, even kernels, a shift, a pool of levels, and a dense layer on flattened levels."""

    def __init__(self, rngs):
        self.first, self.norm0, self.act0 = (
            qnn.StemConv(1, 8, (3, 2), padding="VALID", rngs=rngs),
            qnn.BatchNorm(8, rngs=rngs),
            qnn.PACT(2),
        )
        self.conv = qnn.BinaryConv(8, 12, 3, padding=2, groups=4, rngs=rngs)
        self.norm1, self.shift, self.act1 = qnn.BatchNorm(12, rngs=rngs), qnn.Shift(12, rngs=rngs), qnn.LSQ(3)
        self.dense, self.norm2, self.act2 = (
            qnn.BinaryDense(12 * 4 * 4, 10, rngs=rngs),
            qnn.BatchNorm(10, rngs=rngs),
            qnn.PACT(2),
        )
        self.head = qnn.Classifier(10, 5, rngs=rngs)

    def __call__(self, images):
        x = self.act0(qnn.relu(self.norm0(self.first(images))))
        x = qnn.max_pool(self.act1(self.shift(qnn.relu(self.norm1(self.conv(x))))), 2)
        return self.head(self.act2(self.norm2(self.dense(qnn.flatten(x)))))


class Depthwise(nnx.Module):
    """A depthwise convolution, concatenation, levels on the stream, pools of a stream, and a classifier on a flattened stream."""

    def __init__(self, rngs):
        self.first, self.norm0, self.act0 = (
            qnn.StemConv(1, 8, 3, (2, 1), rngs=rngs),
            qnn.BatchNorm(8, rngs=rngs),
            qnn.PACT(2),
        )
        self.depthwise, self.norm1 = (
            qnn.BinaryConv(8, 16, 3, groups=8, rngs=rngs),
            qnn.BatchNorm(16, rngs=rngs),
        )
        self.act1, self.pointwise = qnn.PowerOfTwo(2), qnn.BinaryConv(16, 8, 1, rngs=rngs)
        self.norm2, self.act2 = qnn.BatchNorm(8, rngs=rngs), qnn.PACT(2)
        self.head = qnn.Classifier(16 * 2, 5, rngs=rngs)

    def __call__(self, images):
        x = qnn.to_stream(qnn.relu(self.norm0(self.first(images))))
        y = self.norm2(self.pointwise(self.act1(self.norm1(self.depthwise(self.act0(x))))))
        x = qnn.concat([x + y, self.act2(y)])
        x = qnn.mean_pool(qnn.max_pool(x, (2, 3), 1), (3, 2), (2, 3))
        return self.head(qnn.flatten(qnn.relu(x)))


NETWORKS = [Plain, Residual, Perceptron, Vgg, Depthwise]


def trained(network, seed=0):
    model = as_trained(network(nnx.Rngs(seed)), seed)
    model.eval()
    return model


def images(shape=(12, 8, 7, 1)):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("network", NETWORKS)
def test_every_engine_computes_the_same_integers(network):
    integers = fold(trained(network), mean=MEAN, image_shape=(8, 7))
    want = reference.logits(integers, images())
    assert len(np.unique(want)) > 12
    for engine in ENGINES:
        np.testing.assert_array_equal(PackedNetwork(integers, 0, engine).logits(images()), want, engine)


@pytest.mark.parametrize("network", NETWORKS)
def test_the_integers_are_what_the_network_computes(network):
    model = trained(network)
    integers = fold(model, mean=MEAN, image_shape=(8, 7))
    got = reference.logits(integers, images()) * integers.logit_scale
    want = np.asarray(model(normalize(jnp.asarray(images()), jnp.asarray(MEAN))))
    assert np.mean(got.argmax(-1) == want.argmax(-1)) > 0.9
    assert np.abs(got - want).mean() < 0.02 * np.abs(want).max()


def test_nodes_have_the_names_of_the_modules_that_they_complete():
    names = [node.name for node in fold(trained(Residual)).nodes if node.name]
    assert names == ["stem", "part.conv", "part.other", "part", "head"]


def test_every_parameter_of_a_network_is_in_its_layer_table():
    for network in NETWORKS:
        model = trained(network)
        rows = layer_table(model, (8, 7, 1))
        assert sum(row.parameters for row in rows) == sum(x.size for x in jnp_leaves(model))
        assert totals(rows).packed_bytes > 0
    rows = layer_table(trained(Residual), (8, 7, 1))
    assert [row.name for row in rows] == ["stem", "part.conv", "part.other", "head", "file header"]
    assert rows[1].macs == 8 * 7 * 9 * 8 * 8 and (rows[1].weight_bits, rows[1].act_bits) == (1, 3)


def jnp_leaves(model):
    return [variable[...] for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))]


def test_qonnx_has_the_trained_layers():
    for network, number in zip(NETWORKS, (1, 2, 1, 2, 2), strict=True):
        if network is Depthwise:  # PowerOfTwo has no QONNX form
            continue
        written = qonnx_model(trained(network), mean=MEAN, image_shape=(8, 7))
        kernels = [x.name for x in written.graph.initializer if x.name.endswith("/kernel")]
        assert len(kernels) == number, network


def middle_of(compute):
    """`Plain` with another computation between its last convolution and the grid."""

    class Net(Plain):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.extra = qnn.BinaryConv(9, 9, 3, rngs=rngs)

        def __call__(self, images):
            x = self.act0(qnn.relu(self.norm0(self.first(images))))
            return self.head(qnn.global_mean(qnn.to_stream(compute(self, self.second(x)), 6)))

    return trained(Net)


@pytest.mark.parametrize(
    "compute, message",
    [
        (
            lambda net, x: net.norm1(qnn.relu(net.norm1(x))),
            "to_stream reads a batch norm or shift of sums behind a relu",
        ),
        (lambda net, x: qnn.max_pool(x, 2), "streams with 8 and 6 fraction bits"),
        (
            lambda net, x: net.extra(x),
            "extra reads sums of a convolution, but it needs levels of a quantizer",
        ),
        (
            lambda net, x: (qnn.concat([qnn.flatten(x)] * 2), x)[1],
            "concat stands behind flatten: put it in front",
        ),
        (lambda net, x: qnn.to_stream(x, 6) + net.norm1(qnn.to_stream(x, 6)) + qnn.to_stream(x, 6), None),
        (lambda net, x: qnn.max_pool(qnn.to_stream(x, 6), 2), None),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(compute, message):
    model = middle_of(compute)
    if message is None:
        assert fold(model, image_shape=(8, 7)).classes == 4
    else:
        with pytest.raises(ExportError, match=message):
            fold(model, image_shape=(8, 7))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Perceptron, "a network with a StemDense needs images of one size: give image_shape"),
        (Vgg, "does not take images of any size, so give image_shape"),
    ],
)
def test_a_network_for_one_size_of_images_is_folded_for_it(network, message):
    with pytest.raises(ExportError, match=message):
        fold(trained(network))


class Halved(Plain):
    """Adds the mean of 2x2 pixels to a convolution that moves by 2 pixels, which fits even sizes only."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.second, self.norm1 = qnn.BinaryConv(6, 6, 3, 2, rngs=rngs), qnn.BatchNorm(6, rngs=rngs)
        self.head = qnn.Classifier(6, 4, fraction_bits=6, rngs=rngs)

    def __call__(self, images):
        stream = qnn.to_stream(qnn.relu(self.norm0(self.first(images))), 6)
        y = qnn.to_stream(self.norm1(self.second(self.act0(stream))), 6)
        return self.head(qnn.global_mean(y + qnn.mean_pool(stream, 2)))


def test_a_network_for_even_sizes_is_not_one_for_any_size():
    with pytest.raises(ExportError, match=r"does not take images of any size, so give image_shape"):
        fold(trained(Halved))
    assert fold(trained(Halved), image_shape=(12, 8)).classes == 4


def test_images_without_the_pixels_of_the_first_layer_are_refused():
    with pytest.raises(ExportError, match="has 56 inputs, which images of 8 x 8 pixels do not have"):
        fold(trained(Perceptron), image_shape=(8, 8))


class Repeated(Plain):
    """Calls one layer twice, and has a kernel that is no square."""

    def __init__(self, rngs):
        super().__init__(rngs)
        self.wide = qnn.BinaryConv(9, 9, (1, 5), rngs=rngs)

    def __call__(self, images):
        x = qnn.to_stream(self.norm1(self.second(self.act0(self.norm0(self.first(images))))), 6)
        for _ in range(2):
            x = qnn.relu(self.norm1(self.wide(self.act0(x))) + x)
        return self.head(qnn.global_mean(x))


def test_a_layer_may_be_called_twice():
    model = trained(Repeated)
    integers = fold(model, mean=MEAN, image_shape=(8, 7))
    want = reference.logits(integers, images())
    for engine in ENGINES:
        np.testing.assert_array_equal(PackedNetwork(integers, 0, engine).logits(images()), want, engine)
    rows = layer_table(model, (8, 7, 1))
    assert sum(row.parameters for row in rows) == sum(x.size for x in jnp_leaves(model))
    assert [row.macs for row in rows if row.name == "wide"] == 2 * [4 * 4 * 5 * 9 * 9]


@pytest.mark.parametrize("bits", [8, None])
def test_the_classifier_has_the_grid_of_the_stream(bits):
    class Net(Plain):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.head = qnn.Classifier(9, 4, fraction_bits=bits, rngs=rngs)

    wrong = (
        "has float weights"
        if bits is None
        else "has fraction_bits=8, but reads a stream with 6 fraction bits"
    )
    with pytest.raises(ExportError, match=f"head {wrong}"):
        fold(trained(Net))


@pytest.mark.parametrize("other", [1, jnp.ones(9)])
def test_a_constant_is_not_added(other):
    with pytest.raises(
        ExportError, match="the network uses a sum with something that is no result of a layer"
    ):
        fold(middle_of(lambda net, x: qnn.to_stream(x, 6) + other))


def test_a_network_has_one_grid():
    with pytest.raises(ExportError, match="streams with 6 and 4 fraction bits"):
        fold(middle_of(lambda net, x: qnn.to_stream(qnn.to_stream(x, 6), 4)))
    with pytest.raises(ExportError, match="streams with 4 and 6 fraction bits: give all of them one grid"):
        fold(middle_of(lambda net, x: net.norm1(qnn.to_stream(x, 4))))


def test_a_layer_without_a_rule_says_how_to_add_one_and_then_folds():
    class Halved(qnn.PACT):
        """A quantizer of a user's own is folded as any other."""

    class Doubling(nnx.Module):
        @qnn.recorded
        def __call__(self, levels):
            return qnn.Levels(levels.value, levels.step, levels.max_level)

    class Net(Plain):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.act0, self.own = Halved(2), Doubling()

        def __call__(self, images):
            x = self.own(self.act0(qnn.relu(self.norm0(self.first(images)))))
            return self.head(qnn.global_mean(qnn.to_stream(self.norm1(self.second(x)), 6)))

    with pytest.raises(ExportError, match="own: Doubling has no rule for folding: add one with fold_rule"):
        fold(trained(Net))

    @fold_rule(Doubling)
    def rule(folding, step, levels):
        assert isinstance(levels, IntegerLevels) and step.path == "own"
        return levels

    assert fold(trained(Net)).classes == 4
