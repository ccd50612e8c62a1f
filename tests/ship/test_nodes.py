"""What nodes refuse, and what is known of their results. tests/ship/test_reference.py compares that with what they compute."""

import dataclasses

import numpy as np
import pytest

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Extent, Window
from qresnet_jax.ship.nodes import Value, value_types
from tests.ship.every_node import NODES, requantize, signs, thresholds


def test_kind_channels_and_size_are_known():
    values = value_types(NODES)
    assert [value.kind for value in values] == [
        *("acc", "stream", "stream", "stream", "levels", "acc", "levels", "acc"),
        *("stream", "stream", "stream", "stream", "stream", "stream", "logits"),
    ]
    assert [value.channels for value in values] == [5, 5, 5, 5, 5, 8, 8, 12, 12, 12, 24, 24, 24, 24, 3]
    # 33x21 pixels; 17x11 behind the stem; 9x6 behind the pool; 4x6 behind rows 0-1, 2-3, ...; 3x2 means of rows 0-1, ...
    heights, widths = ([getattr(value, axis) for value in values] for axis in ("height", "width"))
    assert [extent.at(33) for extent in heights] == [17] * 3 + [9] * 4 + [4] * 4 + [3] + [1] * 3
    assert [extent.at(21) for extent in widths] == [11] * 3 + [6] * 8 + [2] + [1] * 3
    assert heights[10].fixed is None and heights[12] == widths[-1] == Extent(1, 0)
    assert value_types(NODES, 33, 21)[10] == Value("stream", 24, 2**15, Extent(4, 0), Extent(6, 0))


def test_bounds_are_the_largest_sums():
    values = value_types(NODES)
    assert values[0].bound == 510 * np.abs(NODES[0].weights.astype(int)).sum((0, 1, 2)).max()
    assert (values[4].bound, values[5].bound) == (3, 3 * 9 * 5)
    assert (values[6].bound, values[7].bound) == (8, 8 * 6 * 2)  # of the 2 channels of a group
    assert {value.bound for value in values if value.kind == "stream"} == {2**15}


def replaced(i, **changes):
    return [*NODES[:i], dataclasses.replace(NODES[i], **changes), *NODES[i + 1 :]]


WIDE = Window.centered((3, 3))


@pytest.mark.parametrize(
    "i, changes, message",
    [
        (0, {"inputs": (0,)}, "inputs .0,. must be nodes before it"),
        (0, {"window": Window((7, 7), (0, 1))}, "sizes and strides from 1"),
        (0, {"window": WIDE}, r"kernel \(7, 7, 2, 5\) must have the size of its window, \(3, 3\)"),
        (0, {"weights": np.full((7, 7, 2, 5), 999, np.int16)}, "sums reach"),
        (0, {"double_mean": np.array([511, 0], np.int16)}, "means must be 0 to 255"),
        (1, {"shift": np.full(5, 41, np.uint8)}, "shifts 0 to 40"),
        (1, {"shift": np.full(4, 1, np.uint8)}, "expected uint8 .5,., got uint8 .4,."),
        (1, {"offset": np.full(5, 2**60)}, "offsets must be below 2..60"),
        (2, {"inputs": (3,)}, "must be nodes before it"),
        (2, {"inputs": (0,)}, "needs stream, but its input is acc"),
        (3, {"inputs": (0,)}, "needs levels or stream, but its input is acc"),
        (3, {"window": Window((3, 3), (2, 2), ((3, 0), (0, 0)))}, "less padding than its size"),
        (4, {"inputs": (5,)}, "must be nodes before it"),
        (4, {"thresholds": np.array([[3, 2, 4]], np.int32)}, "must ascend"),
        (4, {"levels": np.array([0, 1, 1, 3], np.int32)}, "must ascend"),
        (5, {"inputs": (3,)}, "needs levels, but its input is stream"),
        (5, {"signs": np.zeros((3, 3, 5, 8), np.int8)}, "signs must be -1 or"),
        (5, {"signs": signs(3, 3, 4, 8)}, "with 1 groups does not fit 5 channels"),
        (5, {"signs": signs(2, 3, 5, 8)}, "must have the size of its window"),
        (5, {"signs": signs(3, 3, 0, 8), "window": WIDE}, "expected int8 .None, None, None, None."),
        (7, {"groups": 2}, r"\(2, 3, 2, 12\) with 2 groups does not fit 8 channels"),
        (7, {"groups": 0}, "with 0 groups"),
        (7, {"groups": -4}, "with -4 groups"),
        (7, {"signs": signs(2, 3, 2, 13)}, "with 4 groups"),  # 13 outputs in 4 groups
        (6, {"direction": np.zeros(8, np.int8)}, "directions must be"),
        (10, {"inputs": (8,)}, "needs two or more inputs"),
        (10, {"inputs": (8, 6)}, "needs stream, but its input is levels"),
        (10, {"inputs": (8, 1)}, "cannot concatenate"),
        (11, {"window": WIDE}, "a mean has no padding"),
        (11, {"window": Window((2, 0))}, "sizes and strides from 1"),
        (11, {"window": Window((65, 64))}, "at most 4,096 pixels, got 4,160"),
        (12, {"inputs": (7,)}, "needs stream, but its input is acc"),
        (13, {"inputs": (12, 3)}, "cannot add"),
        (13, {"inputs": (12,)}, "Add"),
        (14, {"weights": np.full((24, 3), 32767, np.int16)}, "int32 holds less than 2..31"),
        (14, {"inputs": (11,)}, "needs images of one size, or a mean over the whole image"),
        (14, {"inputs": (12, 12)}, "Classifier"),
    ],
)
def test_nodes_that_do_not_fit_are_refused(i, changes, message):
    with pytest.raises(ValueError, match=message):
        value_types(replaced(i, **changes))


def test_streams_are_added_and_joined_only_if_their_sizes_are_equal_for_all_images():
    every_second, whole = (
        Window((1, 1), (2, 2)),
        Window((2, 2), (2, 2)),
    )  # equal for 8x8 pixels, but not for 9x9

    def halves(window):
        pooled = nodes.MaxPoolNode(inputs=(1,), window=window)
        signs_of_one = np.ones((1, 1, 5, 5), np.int8)
        other = nodes.BinaryConvNode(inputs=(2,), signs=signs_of_one, window=every_second)
        joined = nodes.ConcatNode(inputs=(4, 5))
        *_, mean, _, classifier = NODES
        return [
            *NODES[:2],
            thresholds(1, [0, 1], 1),
            other,
            requantize(5, 3),
            pooled,
            joined,
            dataclasses.replace(mean, inputs=(6,)),
            dataclasses.replace(classifier, inputs=(7,), weights=classifier.weights[:10]),
        ]

    assert value_types(halves(every_second))[6].channels == 10
    with pytest.raises(ValueError, match="cannot concatenate"):
        value_types(halves(whole))
    assert value_types(halves(whole), 15, 16)[6][3:] == (Extent(4, 0), Extent(4, 0))  # the stem leaves 8x8
    with pytest.raises(ValueError, match="cannot concatenate"):
        value_types(halves(whole), 17, 16)


def test_a_file_of_a_few_bytes_cannot_ask_for_any_amount_of_memory():
    doubled = [nodes.ConcatNode(inputs=(i, i)) for i in range(1, 40)]  # nothing reads them
    with pytest.raises(ValueError, match="1,310,720 channels are more than 1,048,576"):
        value_types([*NODES[:2], *doubled, NODES[-1]])
    with pytest.raises(
        ValueError, match="numbers for one image of 32768 x 32768 pixels are more than 268,435,456"
    ):
        value_types(NODES, 65535, 65535)


def test_a_window_that_never_fits_is_refused():
    nothing = replaced(11, window=Window((40, 1)))
    assert value_types(nothing)[11].height.least > 100  # of images of any size, large ones fit
    with pytest.raises(ValueError, match="a window of 40 pixels does not fit 4 pixels and a border of 0"):
        value_types(nothing, 33, 21)
    behind_the_mean = dataclasses.replace(NODES[11], inputs=(12,), window=Window((2, 1)))
    with pytest.raises(ValueError, match="a window of 2 pixels does not fit 1 pixels and a border of 0"):
        value_types([*NODES[:13], behind_the_mean, NODES[14]])


def test_a_classifier_reads_images_of_one_size():
    flat = [*NODES[:11], dataclasses.replace(NODES[14], inputs=(10,))]
    with pytest.raises(ValueError, match="needs images of one size"):
        value_types(flat)
    with pytest.raises(ValueError, match=r"expected int16 \(576, None\), got int16 \(24, 3\)"):
        value_types(flat, 33, 21)  # 4 * 6 pixels of 24 channels
    weights = np.ones((576, 3), np.int16)
    flat[-1] = dataclasses.replace(flat[-1], weights=weights)
    assert value_types(flat, 33, 21)[-1].bound == 2**15 * 576 + np.abs(flat[-1].bias).max()


def test_the_first_node_is_the_stem_and_the_last_the_classifier():
    for wrong in (NODES[1:], NODES[:-1], (*NODES, NODES[-1]), (NODES[0], *NODES), NODES[:1], ()):
        with pytest.raises(ValueError, match="stem|classifier"):
            value_types(wrong)


class Other(nodes.Node):
    pass


def test_other_nodes_are_unknown():
    with pytest.raises(ValueError, match="node 2, Other '': no such node"):
        value_types([*NODES[:2], Other(inputs=(1,)), *NODES[3:]])
