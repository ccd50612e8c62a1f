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
from qresnet_jax.ship.load import ENGINES, PackedNetwork
from qresnet_jax.ship.onnx.qonnx import qonnx_model
from qresnet_jax.ship.rules import IntegerLevels, fold_rule
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


def trained(network, seed=0):
    model = as_trained(network(nnx.Rngs(seed)), seed)
    model.eval()
    return model


def images(shape=(12, 8, 7, 1)):
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("network", [Plain, Residual])
def test_every_engine_computes_the_same_integers(network):
    integers = fold(trained(network), mean=MEAN, image_shape=(8, 7))
    want = reference.logits(integers, images())
    assert len(np.unique(want)) > 12
    for engine in ENGINES:
        np.testing.assert_array_equal(PackedNetwork(integers, 0, engine).logits(images()), want, engine)


@pytest.mark.parametrize("network", [Plain, Residual])
def test_the_integers_are_what_the_network_computes(network):
    model = trained(network)
    integers = fold(model, mean=MEAN)
    got = reference.logits(integers, images()) * integers.logit_scale
    want = np.asarray(model(normalize(jnp.asarray(images()), jnp.asarray(MEAN))))
    assert np.mean(got.argmax(-1) == want.argmax(-1)) > 0.9
    assert np.abs(got - want).mean() < 0.02 * np.abs(want).max()


def test_nodes_have_the_names_of_the_modules_that_they_complete():
    names = [node.name for node in fold(trained(Residual)).nodes if node.name]
    assert names == ["stem", "part.conv", "part.other", "part", "head"]


def test_every_parameter_of_a_network_is_in_its_layer_table():
    for network in (Plain, Residual):
        model = trained(network)
        rows = layer_table(model, (8, 7, 1))
        assert sum(row.parameters for row in rows) == sum(x.size for x in jnp_leaves(model))
        assert totals(rows).packed_bytes > 0
    assert [row.name for row in rows] == ["stem", "part.conv", "part.other", "head", "file header"]
    assert rows[1].macs == 8 * 7 * 9 * 8 * 8 and (rows[1].weight_bits, rows[1].act_bits) == (1, 3)


def jnp_leaves(model):
    return [variable[...] for _, variable in nnx.to_flat_state(nnx.state(model, nnx.Param))]


def test_qonnx_has_the_trained_layers():
    for network in (Plain, Residual):
        written = qonnx_model(trained(network), mean=MEAN, image_shape=(8, 7))
        kernels = [x.name for x in written.graph.initializer if x.name.endswith("/kernel")]
        assert len(kernels) == (1 if network is Plain else 2)


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
        (lambda net, x: net.norm1(qnn.relu(net.norm1(x))), "norm1 reads sums behind a relu"),
        (
            lambda net, x: qnn.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1))),
            "max_pool reads sums of a convolution, but it needs the stream",
        ),
        (
            lambda net, x: net.extra(x),
            "extra reads sums of a convolution, but it needs levels of a quantizer",
        ),
        (
            lambda net, x: qnn.max_pool(qnn.to_stream(x, 6), (2, 2), (2, 2), ((0, 0), (0, 0))),
            "max_pool has no integer form yet",
        ),
        (lambda net, x: qnn.to_stream(x, 6) + net.norm1(qnn.to_stream(x, 6)) + qnn.to_stream(x, 6), None),
    ],
)
def test_what_does_not_fit_is_refused_by_its_name(compute, message):
    model = middle_of(compute)
    if message is None:
        assert fold(model).classes == 4
    else:
        with pytest.raises(ExportError, match=message):
            fold(model)


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


@pytest.mark.parametrize(
    "layer, message",
    [
        (lambda r: qnn.BinaryConv(9, 9, 3, (2, 1), rngs=r), r"extra has strides of 2 and 1"),
        (lambda r: qnn.BinaryConv(9, 9, 3, 3, rngs=r), r"extra has strides of 3 and 3"),
        (lambda r: qnn.BinaryConv(9, 9, 2, rngs=r), r"extra has a kernel of \(2, 2\)"),
    ],
)
def test_convolutions_without_an_integer_form_are_refused(layer, message):
    class Net(Plain):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.act1, self.extra = qnn.PACT(2), layer(rngs)

        def __call__(self, images):
            x = self.act1(self.second(self.act0(self.norm0(self.first(images)))))
            return self.head(qnn.global_mean(qnn.to_stream(self.extra(x), 6)))

    with pytest.raises(ExportError, match=message):
        fold(trained(Net))


@pytest.mark.parametrize("bits", [8, None])
def test_the_classifier_has_the_grid_of_the_stream(bits):
    class Net(Plain):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.head = qnn.Classifier(9, 4, fraction_bits=bits, rngs=rngs)

    with pytest.raises(
        ExportError, match=f"head has fraction_bits={bits}, but reads a stream with 6 fraction bits"
    ):
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
