"""How outputs are paired."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.pairs import paired
from qresnet_jax.ship.c.plan import Step
from qresnet_jax.ship.geometry import Window

LOWEST = -(2**31)  # a multiplier that has no negative


def step_of(signs, groups=1, multiplier=None):
    """A step with a convolution and, for given multipliers, numbers of a stream."""
    out = signs.shape[3]
    conv = nodes.BinaryConvNode(signs=signs, window=Window(signs.shape[:2]), groups=groups)
    if multiplier is None:
        zeros = np.zeros((1, 1), np.int32)
        last = nodes.ThresholdsNode(thresholds=zeros, direction=np.ones(1, np.int8), levels=np.int32([0, 1]))
    else:
        offset, shift = np.zeros(out, np.int64), np.zeros(out, np.uint8)
        last = nodes.RequantizeNode(multiplier=np.int32(multiplier), offset=offset, shift=shift)
    return Step(result=2, source=0, conv=conv, last=last)


@st.composite
def signs(draw, most_groups=4):
    """Signs, most of which may be equal, and the number of groups."""
    shape = draw(st.tuples(*(st.integers(1, n) for n in (3, 3, 9))))
    groups, out = draw(st.integers(1, most_groups)), draw(st.integers(1, 9))
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    share = draw(st.sampled_from([0, 0.1, 0.5, 0.9, 1]))
    return np.where(rng.random((*shape, groups * out)) < share, 1, -1).astype(np.int8), groups


@settings(max_examples=200, deadline=None, derandomize=True)
@given(signs())
def test_the_order_has_every_output_once_and_keeps_groups_together(drawn):
    kernel, groups = drawn
    _, order, polarity = paired(step_of(kernel, groups))
    out = kernel.shape[3]
    assert order.shape == polarity.shape == (out,)
    for group, channels in zip(np.arange(out).reshape(groups, -1), order.reshape(groups, -1), strict=True):
        np.testing.assert_array_equal(np.sort(channels), group)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(signs())
def test_taps_and_polarity_give_the_signs_back(drawn):
    kernel, groups = drawn
    added, order, polarity = paired(step_of(kernel, groups))
    assert set(polarity) <= {-1, 1}
    expected = kernel.reshape(-1, kernel.shape[3]).T
    np.testing.assert_array_equal(np.where(added, 1, -1) * polarity[order][:, None], expected[order])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(signs())
def test_the_most_frequent_signs_of_a_pair_need_nothing(drawn):
    """A single output adds up the rarer of its signs."""
    kernel, groups = drawn
    added, _, _ = paired(step_of(kernel, groups))
    for rows in np.split(added, groups):
        for k in range(0, len(rows) - 1, 2):
            first, second = rows[k : k + 2]
            counts = [(first & second).sum(), (first & ~second).sum(), (second & ~first).sum()]
            assert (~first & ~second).sum() >= max(counts)
        if len(rows) % 2 == 1:
            assert 2 * rows[-1].sum() <= rows.shape[1]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(signs(), st.sampled_from([0, 0.3, 0.7, 1]), st.integers(0, 999))
def test_an_output_whose_multiplier_has_no_negative_is_not_turned(drawn, share, seed):
    kernel, groups = drawn
    lowest = np.random.default_rng(seed).random(kernel.shape[3]) < share
    _, _, polarity = paired(step_of(kernel, groups, np.where(lowest, LOWEST, 7)))
    assert (polarity[lowest] == 1).all()
