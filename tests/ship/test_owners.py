import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.ship import nodes
from qresnet_jax.ship.fold import fold_traced
from qresnet_jax.ship.owners import layers_of_nodes, makers, owner_of_layer, owners_of_nodes, quantizer_behind
from tests.ship.conftest import as_trained
from tests.ship.every_layer import Layers


@pytest.fixture(scope="module")
def folded():
    model = as_trained(Layers(nnx.Rngs(0)))
    return fold_traced(model, mean=127.5, class_names=None, image_shape=Layers.image_size)


def names(folded, positions):
    """The layers at these steps, and "" where a function is."""
    return [folded.steps[i].path for i in positions]


def test_every_node_has_the_step_that_it_was_folded_from(folded):
    kinds = [nodes.kind(node) for node in folded.network.nodes]
    assert list(zip(kinds, names(folded, makers(folded)), strict=True)) == [
        ("Stem", "stem"),
        ("Thresholds", "act"),
        ("BinaryConv", "other"),  # levels that a batch norm reads as sums
        ("MaxPool", ""),
        ("BinaryConv", "depthwise"),
        ("Requantize", ""),
        ("Requantize", ""),
        ("Concat", ""),
        ("MeanPool", ""),
        ("Relu", ""),
        ("Thresholds", "again"),
        ("BinaryConv", "dense"),
        ("Thresholds", "last"),
        ("BinaryConv", "head"),  # levels that a classifier reads as a stream
        ("Requantize", "head"),
        ("Classifier", "head"),
    ]


def test_arrays_count_with_a_convolution_and_the_layer_that_it_is_of(folded):
    owners = owners_of_nodes(folded.network)
    assert owners == [0, 0, 2, 3, 4, 2, 4, 7, 8, 9, 11, 11, 11, 13, 13, 15]
    with_arrays = [
        i
        for i, node in enumerate(folded.network.nodes)
        if any(isinstance(x, np.ndarray) for x in vars(node).values())
    ]
    layers = layers_of_nodes(folded)
    assert names(folded, [layers[i] for i in with_arrays]) == [
        *("stem", "stem", "other", "depthwise", "other", "depthwise"),
        *("dense", "dense", "dense", "head", "head", "head"),
    ]


def test_parameters_count_with_the_layer_whose_sums_they_change_or_the_first_that_reads_them(folded):
    owners = {
        step.path: folded.steps[owner_of_layer(folded.steps, i)].path
        for i, step in enumerate(folded.steps)
        if isinstance(step.operation, nnx.Module)
    }
    assert owners == {
        **dict.fromkeys(("stem", "norm", "shift"), "stem"),
        **dict.fromkeys(("act", "depthwise"), "depthwise"),
        **dict.fromkeys(("again", "dense", "drop"), "dense"),
        **dict.fromkeys(("last", "head"), "head"),
        "other": "other",  # of no layer's sums, and a part of the stream
    }


def test_levels_are_those_of_the_quantizer_behind_pools(folded):
    behind = {
        step.path or step.operation.__name__: quantizer_behind(folded.steps, i)
        for i, step in enumerate(folded.steps)
    }
    by_path = {step.path: step.operation for step in folded.steps}
    assert behind["act"] is behind["largest_of_windows"] is by_path["act"]
    assert behind["flatten"] is by_path["again"] and behind["last"] is by_path["last"]
    assert {behind[name] for name in ("stem", "shift", "dense", "drop", "head", "concat_alike")} == {None}
    assert all(isinstance(quantizer, nn.Quantizer | None) for quantizer in behind.values())
