"""The layer table against counts of the variables, the operations that JAX traces, and the packed file itself."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from jax.extend.core import jaxprs_in_params

from qresnet_jax import nn
from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel
from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.costs import (
    HEADER,
    as_markdown,
    as_text,
    integer_bits,
    layer_table,
    network_table,
    totals,
)
from qresnet_jax.ship.fold import fold
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.file import packed_bytes
from tests.ship.conftest import as_trained
from tests.ship.every_layer import Layers
from tests.ship.every_node import NODES, requantize
from tests.ship.random_networks import random_network

IMAGENET = {"stem": "imagenet", "depth": 18, "act_bits": (1, 2, 3, 4), "stem_weight_bits": 8}
ARCHITECTURES = {
    "basic": ({"depth": 8}, (32, 32, 3)),
    "odd image": ({"depth": 8, "in_channels": 1}, (9, 7, 1)),
    "wide, bits by stage": ({"depth": 8, "width": 2, "act_bits": (3, 2, 1)}, (12, 12, 3)),
    "bottleneck": ({"depth": 11, "block": "bottleneck"}, (16, 16, 3)),
    "preact": ({"depth": 8, "block": "preact_basic", "activation": "fixed"}, (16, 13, 3)),
    "preact bottleneck": ({"depth": 11, "block": "preact_bottleneck", "weight_scale": "channel"}, (8, 8, 3)),
    "powers of two": ({"depth": 8, "activation": "power_of_two", "act_bits": (2, 3, 3)}, (8, 8, 3)),
    "float": ({"depth": 8, "weight_bits": 32, "activation": "none"}, (32, 32, 3)),
    "float weights": ({"depth": 8, "weight_bits": 32}, (8, 8, 3)),
    "float activations": ({"depth": 8, "activation": "none"}, (8, 8, 3)),
    "partly float activations": ({"depth": 8, "act_bits": (2, 32, 2)}, (8, 8, 3)),
}
INTEGER = [
    name for name in ARCHITECTURES if not name.endswith(("float", "float weights", "float activations"))
]


@pytest.fixture
def build(make_model):
    def build(name):
        changes, shape = ARCHITECTURES[name]
        return make_model(**changes), shape

    return build


def size(model, kind):
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, kind)))


@pytest.mark.parametrize(("depth", "parameters", "binary"), [(20, 272_474, 269_824), (32, 466_906, 463_360)])
def test_resnets_have_their_known_sizes(make_model, depth, parameters, binary):
    total = totals(layer_table(make_model(depth=depth), (32, 32, 3)))
    assert total.parameters - total.clipping_levels == parameters
    assert total.binary_parameters == binary
    assert total.clipping_levels == depth - 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_parameter_counts_once(build, name):
    model, shape = build(name)
    total = totals(layer_table(model, shape))
    assert total.parameters == size(model, nnx.Param)
    assert total.binary_parameters == size(model, BinaryKernel)
    assert total.clipping_levels == size(model, ClippingLevel)
    assert total.float_bytes == 4 * total.parameters


def traced_macs(model, shape):
    """Multiplications of each convolution and matrix product of a float network, as JAX traces it."""
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True))
    images = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    jaxpr = jax.make_jaxpr(lambda state, x: nnx.merge(graphdef, state)(x))(state, images)
    return list(_macs(jaxpr.jaxpr))


def _macs(jaxpr):
    for equation in jaxpr.eqns:
        params = dict(equation.params)
        if "branches" in params:  # one for each platform; the last is the plain form
            params["branches"] = params["branches"][-1:]
        for inner in jaxprs_in_params(params):
            yield from _macs(inner)
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            kernel, (result,) = equation.invars[1].aval.shape, equation.outvars
            yield math.prod(result.aval.shape) * math.prod(kernel) // kernel[-1]


@pytest.mark.parametrize("name", [*ARCHITECTURES, pytest.param("imagenet", marks=pytest.mark.slow)])
def test_macs_are_those_of_the_traced_float_twin(make_model, name):
    changes, shape = ARCHITECTURES.get(name, ({**IMAGENET, "num_classes": 7}, (65, 49, 3)))
    twin = make_model(**changes | {"weight_bits": 32, "activation": "none"})
    expected = traced_macs(twin, shape)
    assert len(expected) > 8
    layers = layer_table(make_model(**changes) if name != "imagenet" else twin, shape)
    assert [layer.macs for layer in layers if layer.macs] == expected
    assert totals(layers).macs == sum(expected)


def test_macs_are_counted_position_by_position(make_model):
    """7x9 pixels, padding 1: the kernel's centre visits every pixel, at stride 2 every other one, the first included."""
    rows = {row.name: row for row in layer_table(make_model(depth=8), (7, 9, 3))}
    for name, stride, taps in (
        ("stages.0.0.convs.0", 1, 9 * 16 * 16),
        ("stages.1.0.convs.0", 2, 9 * 16 * 32),
    ):
        positions = [(y, x) for y in range(0, 7, stride) for x in range(0, 9, stride)]
        assert rows[name].macs == taps * len(positions)


def test_bops_multiply_macs_and_bits(build):
    model, shape = build("wide, bits by stage")
    layers = layer_table(model, shape)
    act_bits = {"0": 3, "1": 2, "2": 1}
    for layer in layers:
        if layer.name == "stem":
            assert layer.bops == layer.macs * 11 * 8  # stem_weight_bits, pixels
        elif layer.name == "classifier":
            largest = np.abs(fold(model).classifier.weights).max()  # with its sign a bit more
            assert layer.bops == 128 * 10 * (int(largest).bit_length() + 1) * 16  # int16
        elif layer.name != HEADER:
            assert layer.bops == layer.macs * act_bits[layer.name.split(".")[1]]
    assert totals(layers).bops == sum(layer.bops for layer in layers) > 0


def test_shares_and_ratios(build):
    model, shape = build("basic")
    layers = layer_table(model, shape)
    total = totals(layers)
    others = sum(layer.macs for layer in layers if layer.name in ("stem", "classifier"))
    assert total.binary_mac_share == 1 - others / total.macs
    file = packed_bytes(fold(model, image_shape=shape[:2]))
    assert total.compression == 4 * size(model, nnx.Param) / len(file)


@pytest.mark.parametrize("name", INTEGER)
def test_packed_bytes_are_those_of_the_file(build, name):
    model, shape = build(name)
    network = fold(model, mean=100.5, class_names="abcdefghij", image_shape=shape[:2])
    for given_network in (None, network):
        data = packed_bytes(given_network or fold(model, image_shape=shape[:2]))
        layers = layer_table(model, shape, given_network)
        assert totals(layers).packed_bytes == len(data)
        tensors = safetensors.numpy.load(data)
        header = next(layer for layer in layers if layer.name == HEADER)
        assert header.packed_bytes == len(data) - sum(x.nbytes for x in tensors.values())


def test_packed_bytes_belong_to_the_layer_that_they_describe(make_model):
    """From docs/packed_format.md, where all thresholds fit int16."""
    rows = {row.name: row.packed_bytes for row in layer_table(make_model(depth=8, in_channels=1), (8, 8, 1))}
    signs, thresholds, requantize = 9 * 16 * 16 // 8, 16 * 3 * 2 + 16 // 8, 16 * (4 + 4 + 1)
    of_the_stream = 3 * 2 + 1
    assert rows["stem"] == 9 * 16 * 2 + requantize + 16 * 4  # offsets beyond int32
    assert rows["stages.0.0.convs.0"] == of_the_stream + signs + thresholds
    assert rows["stages.0.0.convs.1"] == signs + requantize
    assert rows["stages.2.0.project"] == 32 * 64 // 8 + 64 * 9
    assert rows["classifier"] == 64 * 10 * 2 + 10 * 4


@pytest.mark.parametrize("name", INTEGER)
def test_the_integer_network_gives_the_same_table(build, name):
    model, shape = build(name)
    network = fold(model, image_shape=shape[:2])
    same = ("name", "shape", "weight_bits", "act_bits", "packed_bytes", "macs")
    of_model, of_network = layer_table(model, shape), network_table(network, shape[:2])
    assert [[getattr(row, f) for f in same] for row in of_model] == [
        [getattr(row, f) for f in same] for row in of_network
    ]


@pytest.mark.parametrize("name", INTEGER)
def test_bits_are_those_of_the_model(build, name):
    model, shape = build(name)
    rows = {row.name: row for row in layer_table(model, shape)}
    assert rows["stem"].weight_bits == 11 and rows["stem"].act_bits == 8
    assert rows["classifier"].weight_bits == 11  # as all of these have few features
    for i, stage in enumerate(model.stages):
        for j, act in enumerate(stage[0].acts):
            row = rows[f"stages.{i}.0.convs.{j}"]
            assert (row.weight_bits, row.act_bits) == (1, act.bits)


def test_nodes_without_names_of_their_own_stay_apart(build):
    model, shape = build("preact")
    network = fold(model)
    for name in ("", "the same"):
        renamed = tuple(dataclasses.replace(node, name=name) for node in network.nodes)
        table = network_table(dataclasses.replace(network, nodes=renamed), shape[:2])
        expected = network_table(network, shape[:2])
        assert [row.macs for row in table] == [row.macs for row in expected]
        assert [row.packed_bytes for row in table[:-1]] == [row.packed_bytes for row in expected[:-1]]


def test_thresholds_that_nothing_reads_have_a_row():
    one = np.ones(1, np.int8)
    network = IntegerNetwork(
        (
            nodes.StemNode(
                weights=np.ones((1, 1, 1, 1), np.int16),
                double_mean=np.zeros(1, np.int16),
                window=Window((1, 1)),
            ),
            nodes.RequantizeNode(
                inputs=(0,),
                multiplier=one.astype(np.int32),
                offset=one.astype(np.int64),
                shift=one.astype(np.uint8),
            ),
            nodes.ThresholdsNode(
                inputs=(1,),
                thresholds=np.ones((1, 1), np.int32),
                direction=one,
                levels=np.arange(2, dtype=np.int32),
            ),
            nodes.MeanPoolNode(inputs=(1,)),
            nodes.ClassifierNode(inputs=(3,), weights=np.ones((1, 2), np.int16), bias=np.zeros(2, np.int32)),
        ),
        fraction_bits=8,
        logit_scale=1.0,
    )
    rows = network_table(network, (4, 4))
    assert [row.name for row in rows] == ["stem", "node 2", "classifier", HEADER]
    assert rows[1].packed_bytes == 2 + 1 and rows[0].packed_bytes == 1 + 4 + 4 + 1
    assert totals(rows).packed_bytes == len(packed_bytes(network))


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_are_counted_node_by_node(seed, make_images):
    network, image_size = random_network(seed)
    values = reference.node_values(network, make_images(1, (*image_size, network.channels)))
    rows = network_table(network, image_size)
    positions = {i: x.shape[1] * x.shape[2] if x.ndim == 4 else 1 for i, x in values.items()}
    kernels = [
        (getattr(node, "weights" if hasattr(node, "weights") else "signs"), positions[i])
        for i, node in enumerate(network.nodes)
        if isinstance(node, nodes.StemNode | nodes.BinaryConvNode | nodes.ClassifierNode)
    ]
    counted = [(row.shape, row.macs) for row in rows if row.macs]
    assert counted == [(kernel.shape, kernel.size * count) for kernel, count in kernels]
    assert totals(rows).packed_bytes == len(packed_bytes(network))
    if network.height is not None:
        assert rows == network_table(network)


def test_thresholds_count_with_the_convolution_that_reads_their_levels_through_a_pool():
    pool = nodes.MaxPoolNode(inputs=(4,), window=Window((2, 2)))
    conv = dataclasses.replace(NODES[5], inputs=(5,), name="conv")
    pooled = nodes.MeanPoolNode(inputs=(7,))
    classifier = dataclasses.replace(NODES[-1], inputs=(8,), weights=NODES[-1].weights[:8])
    made = (*NODES[:5], pool, conv, requantize(8, 6), pooled, classifier)
    stem, row, *rest = network_table(IntegerNetwork(made, 8, 0.5), (33, 21))
    assert [stem.name, row.name, *(other.name for other in rest)] == ["stem", "conv", "classifier", HEADER]
    assert (row.act_bits, row.macs) == (
        2,
        9 * 5 * 8 * 8 * 5,
    )  # levels 0 to 3; the pool leaves 8x5 of 9x6 pixels
    of_thresholds, signs, of_requantize = 3 * 2 + 1, 9 * 5 * 8 // 8, 8 * (4 + 4 + 1)
    assert row.packed_bytes == of_thresholds + signs + of_requantize


def test_every_kind_of_layer_has_its_row():
    model = as_trained(Layers(nnx.Rngs(0)))
    rows = layer_table(model, (*Layers.image_size, 1))
    assert totals(rows).parameters == size(model, nnx.Param)
    assert totals(rows).packed_bytes == len(packed_bytes(fold(model, image_shape=Layers.image_size)))
    counted = {row.name: (row.parameters, row.clipping_levels, row.act_bits, row.macs) for row in rows[:-1]}
    assert counted == {
        "stem": (2 * 3 * 6 + 3 * 6, 0, 8, 36 * 4 * 2),
        "depthwise": (9 * 6 + 1, 1, 2, 54 * 4 * 2),
        "other": (2 * 6, 0, None, 0),
        "dense": (72 * 7 + 1, 1, 3, 72 * 7),
        "head": (7 * 4 + 4 + 1, 1, 16, 28),
    }
    assert all(row.packed_bytes for row in rows)


def test_a_network_of_dense_layers_reads_all_pixels():
    class Dense(nnx.Module):
        def __init__(self, rngs):
            self.stem, self.act = nn.StemDense(4 * 5 * 2, 6, rngs=rngs), nn.PACT(2)
            self.head = nn.Classifier(6, 3, rngs=rngs)

        def __call__(self, images):
            return self.head(self.act(self.stem(nn.flatten(images))))

    rows = layer_table(Dense(nnx.Rngs(0)), (4, 5, 2))
    assert [(row.name, row.macs) for row in rows] == [("stem", 240), ("head", 18), (HEADER, 0)]
    with pytest.raises(ValueError, match="the first layer has 40 inputs, not 20"):
        layer_table(Dense(nnx.Rngs(0)), (4, 5, 1))


@pytest.mark.parametrize("name", ["float", "float weights", "partly float activations"])
def test_a_network_without_integer_form_is_not_packed(build, name):
    model, shape = build(name)
    layers = layer_table(model, shape)
    assert totals(layers).packed_bytes is None and totals(layers).compression is None
    assert layers[0].weight_bits == layers[0].act_bits == 32
    assert "packed" not in as_text(layers) + as_markdown(layers)


def test_float_activations_have_32_bits(build):
    model, shape = build("partly float activations")
    rows = {row.name: row for row in layer_table(model, shape)}
    assert [rows[f"stages.{i}.0.convs.0"].act_bits for i in range(3)] == [2, 32, 2]
    assert rows["stages.1.0.project"].bops == 32 * rows["stages.1.0.project"].macs


def test_wrong_images_are_refused(build):
    model, _ = build("basic")
    with pytest.raises(ValueError, match=r"image_shape=\(8, 8, 1\): the first layer has 3 inputs, not 1"):
        layer_table(model, (8, 8, 1))
    with pytest.raises(ValueError, match="any size: give an image_size"):
        network_table(fold(model))


def test_the_size_that_a_network_is_tied_to_is_the_default(build):
    network = fold(build("basic")[0], image_shape=(8, 6))
    assert network_table(network) == network_table(network, (8, 6))


@given(st.lists(st.integers(-(2**15), 2**15 - 1), min_size=1))
def test_integer_bits_are_the_fewest_that_hold_all(weights):
    bits = integer_bits(np.array(weights, np.int16))
    assert all(-(2 ** (bits - 1)) <= w < 2 ** (bits - 1) for w in weights)
    half = 2 ** (bits - 2)
    assert bits == 2 or not all(-half <= w < half for w in weights)


def test_markdown_columns_add_up(build):
    model, shape = build("basic")
    lines = [
        line.strip("|").split("|")
        for line in as_markdown(layer_table(model, shape)).splitlines()
        if line.startswith("|")
    ]
    header, _, *rows = [[cell.strip() for cell in line] for line in lines]
    for i in range(header.index("parameters"), len(header)):
        *column, total = [int(row[i].strip("*").replace(",", "") or 0) for row in rows]
        assert sum(column) == total > 0


def test_text_is_aligned(build):
    model, shape = build("preact")
    *table, sentence = as_text(layer_table(model, shape)).splitlines()
    assert len({len(line) for line in table}) == 1
    assert [line.split()[0] for line in table if line.startswith("stages.0")] == [
        "stages.0.0.convs.0",
        "stages.0.0.convs.1",
    ]
    total = totals(layer_table(model, shape))
    assert f"{total.parameters:,} parameters" in sentence and f"{total.compression:.1f} times" in sentence
