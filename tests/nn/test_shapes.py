"""Windows and padding, as users give them."""

import pytest

from qresnet_jax.nn.shapes import borders, conv_form, pair
from qresnet_jax.ops.plain import CENTERED, Form


def test_one_number_stands_for_both_axes():
    assert pair(3) == (3, 3) == pair([3, 3])
    for wrong in (0, (1, 2, 3), (1,), (1, -1), (1.5, 2)):
        with pytest.raises(
            ValueError, match="must be two numbers above 0, along H and W, or one for both; got"
        ):
            pair(wrong)


@pytest.mark.parametrize(
    ("padding", "want"),
    [
        (None, ((1, 1), (0, 0))),
        ("VALID", ((0, 0), (0, 0))),
        (0, ((0, 0), (0, 0))),
        (1, ((1, 1), (1, 1))),
        (((2, 0), (0, 1)), ((2, 0), (0, 1))),
        ([[2, 0], [0, 1]], ((2, 0), (0, 1))),
    ],
)
def test_padding_has_four_forms(padding, want):
    assert borders(padding, (3, 2)) == want


@pytest.mark.parametrize("wrong", ["SAME", ((1, 1),), ((1,), (1,)), 2, -1, ((3, 0), (0, 0))])
def test_other_padding_is_refused(wrong):
    with pytest.raises(ValueError, match="padding must be"):
        borders(wrong, (3, 2))


def test_the_usual_padding_has_one_form_however_it_is_given():
    assert all(conv_form(p, (3, 3)) == CENTERED for p in (None, 1, ((1, 1), (1, 1))))
    assert conv_form("VALID", (1, 1)) == CENTERED
    assert conv_form("VALID", (3, 3), 2, (4, 8)) == Form(((0, 0), (0, 0)), 2)


@pytest.mark.parametrize("groups", [0, -1, 3])
def test_groups_divide_the_channels(groups):
    with pytest.raises(ValueError, match=r"groups must divide the channels \(4, 8\), got"):
        conv_form(None, (3, 3), groups, (4, 8))
