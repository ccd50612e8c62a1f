"""What signs, windows and groups look like in the file."""

import dataclasses

import numpy as np
import pytest

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.arrays import NodeReader, NodeWriter, pack_signs, unpack_signs
from tests.ship.every_node import NODES
from tests.ship.packed.files import assert_same_node


def test_a_weight_takes_one_bit_and_the_first_is_the_lowest():
    signs = np.array([1, -1, 1, 1, -1, -1, -1, -1, 1], np.int8)
    assert pack_signs(signs).tolist() == [0b1101, 0b1]
    np.testing.assert_array_equal(unpack_signs(pack_signs(signs), 9), signs)


def written(network):
    """The JSON objects of its nodes, of their fields only those of windows and groups."""
    writer = NodeWriter()
    entries = [writer.write(i, node) for i, node in enumerate(network.nodes)]
    return [
        {key: value for key, value in entry.items() if key in ("op", "stride", "window", "padding", "groups")}
        for entry in entries
    ]


def test_windows_and_groups_are_written_where_they_are_not_the_usual_ones():
    assert [entry for entry in written(IntegerNetwork(NODES, 8, 0.5)) if len(entry) > 1] == [
        {"op": "stem", "stride": 2},
        {"op": "binary_conv", "groups": 4, "stride": [2, 1], "padding": [[0, 0], [2, 0]]},
        {"op": "mean_pool", "window": [2, 1], "stride": [1, 3]},
    ]


@pytest.mark.parametrize(
    "node, entry",
    [
        (nodes.MaxPoolNode(window=Window.centered((3, 3), 2)), {"op": "max_pool"}),
        (nodes.MaxPoolNode(window=Window.centered((2, 5), 2)), {"op": "max_pool", "window": [2, 5]}),
        (
            nodes.MaxPoolNode(window=Window((3, 3), (2, 1))),
            {"op": "max_pool", "stride": [2, 1], "padding": [[0, 0], [0, 0]]},
        ),
        (
            nodes.MaxPoolNode(window=Window((2, 2), (1, 1), ((1, 0), (0, 1)))),
            {"op": "max_pool", "window": [2, 2], "stride": 1, "padding": [[1, 0], [0, 1]]},
        ),
        (nodes.MeanPoolNode(), {"op": "mean_pool"}),
        (
            nodes.MeanPoolNode(window=Window((5, 4), (3, 3))),
            {"op": "mean_pool", "window": [5, 4], "stride": 3},
        ),
    ],
)
def test_pools_are_written_and_read(node, entry):
    node = dataclasses.replace(node, inputs=(0,))
    assert NodeWriter().write(1, node) == entry
    assert_same_node(NodeReader({}, np.zeros(1, np.int16)).read(1, entry), node)
