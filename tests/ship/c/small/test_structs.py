"""What the constants of the profile `small` say."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.small.profile import SmallProfile
from qresnet_jax.ship.c.small.structs import packed, sum_bits
from tests.ship.c.small.builders import SIZE, begun, convolved, finished, quantized


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 5), st.integers(1, 100), st.integers(0, 999))
def test_packed_words_have_the_first_bit_lowest_and_end_with_zeros(rows, columns, seed):
    bits = np.random.default_rng(seed).random((rows, columns)) < 0.5
    words = packed(bits)
    assert words.dtype == np.uint32 and words.shape == (rows, -(-columns // 32))
    for row, of_row in zip(bits, words, strict=True):
        number = sum(int(word) << 32 * k for k, word in enumerate(of_row))
        assert number == sum(1 << k for k in np.flatnonzero(row).tolist())


@pytest.mark.parametrize("bound", [1, 2, 5, 6, 13, 14, 2**15 - 3, 2**15 - 2, 2**24 - 1])
def test_sums_have_the_fewest_bits_that_hold_them_and_their_thresholds(bound):
    """As numbers from 2^(bits - 1) + 1 - bound on, where thresholds go up to bound + 1."""

    def fits(bits):
        return 2 ** (bits - 1) + 1 - bound >= 0 and 2 ** (bits - 1) + 1 + bound + 1 < 2**bits

    bits = sum_bits(bound)
    assert fits(bits) and not fits(bits - 1) and 2 <= bits <= 26


@pytest.mark.parametrize(
    "multiplier, offset, shift, kind",
    [
        (2**31 - 12, 10, 1, "narrow"),
        (-(2**31) + 12, -10, 31, "narrow"),
        (2**31 - 12, 11, 1, "wide"),
        (2**31 - 1, 1, 1, "large"),  # what is left may need 31 bits and a sign
        (2**31 - 12, -12, 2, "wide"),
        (7, 9, 0, "wide"),  # the narrow ones are shifted
        (7, 2**59, 32, "wide"),
        (7, 9, 33, "large"),
        (-(2**31), 0, 1, "large"),
        (-(2**31), 0, 2, "wide"),
    ],
)
def test_constants_are_as_narrow_as_what_is_computed_with_them(multiplier, offset, shift, kind):
    """Of sums up to 1."""
    build, x = begun(1)
    x = convolved(build, quantized(build, x, 1, 1), 1, 1, signs=-np.ones((1, 1, 1, 1), np.int8))
    constants = {"multiplier": np.int32([multiplier]), "offset": np.int64([offset])}
    x = build.add(nodes.RequantizeNode(inputs=(x,), shift=np.uint8([shift]), **constants))
    text = SmallProfile(plan(finished(build, x, 1), *SIZE)).program()
    (fields,) = re.findall(rf"requantize_{x} = {{(.*?)}};", text, re.DOTALL)
    (found,) = re.findall(r"\.(narrow|wide|large) =", fields)
    assert found == kind
