"""Sums of taps in bit planes, and what is made of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ship.c.small.functions import Conv, Thresholds, call, in_words, of_planes, of_words, struct

PLANES = 32  # words of a number
PARTS = ("both", "first", "second")


def sum_planes(numbers):
    """The bit planes of 32 numbers, and anything in none of them: `[PLANES]`."""
    return in_words(np.asarray(numbers, np.int64) >> np.arange(PLANES)[:, None] & 1)[:, 0].copy()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(0, 40), st.integers(1, 20), st.sampled_from([0, 1, 7, 2**12, 2**20]), st.integers(0, 999))
def test_words_are_added_to_numbers_in_bit_planes(library, quarter, words, start, seed):
    """As many words as a multiple of 4 from 0 on, of which some are named several times."""
    rng = np.random.default_rng(seed)
    bits = rng.random((words, 32)) < rng.choice([0.5, 1])
    names = rng.integers(0, words, 4 * quarter).astype(np.uint16)
    before = rng.integers(0, start + 1, 32)
    total = sum_planes(before)
    call(library.add, in_words(bits)[:, 0].copy(), names, len(names), total)
    np.testing.assert_array_equal(of_planes(total[:, None], 32), before + bits[names].sum(0))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 12), st.integers(1, 14), st.integers(1, 15), st.integers(0, 999))
def test_levels_are_added_to_numbers_in_bit_planes(library, quarter, taps, planes, seed):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 2**planes, (taps, 32)) | rng.choice([0, 2**planes - 1])
    words = in_words(levels[:, None] >> np.arange(planes)[:, None] & 1).reshape(-1).copy()
    named = rng.integers(0, taps, 4 * quarter)
    before = rng.integers(0, 1000, 32)
    total = sum_planes(before)
    call(library.add_levels, words, planes, (named * planes).astype(np.uint16), len(named), total)
    np.testing.assert_array_equal(of_planes(total[:, None], 32), before + levels[named].sum(0))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(1, 200), st.integers(1, 8), st.sampled_from([0, 0.1, 0.5, 1]), st.integers(0, 999))
def test_lists_have_each_tap_of_either_output_once_and_a_length_of_fours(library, taps, planes, share, seed):
    rng = np.random.default_rng(seed)
    first, second = rng.random((2, taps)) < share
    wanted = {"both": first & second, "first": first & ~second, "second": second & ~first}
    for part, name in enumerate(PARTS):
        count = int(wanted[name].sum())
        filled = -(-count // 4) * 4
        found, length = np.full(filled, 9999, np.uint16), np.zeros(1, np.uintp)
        call(library.list, in_words(first), in_words(second), part, taps, planes, found, length)
        assert length[0] == filled
        np.testing.assert_array_equal(np.sort(found[:count]), planes * np.flatnonzero(wanted[name]))
        assert (found[count:] == planes * taps).all()  # the word behind all taps


@pytest.mark.parametrize("bits", range(2, 27))
def test_numbers_of_all_bits_are_taken_out_of_planes(library, bits):
    """Planes above are not read."""
    rng = np.random.default_rng(bits)
    stored = rng.integers(0, 2**bits, 32)
    stored[:3] = 0, 2**bits - 1, 2 ** (bits - 1)
    got = np.zeros(32, np.int32)
    call(library.numbers, sum_planes(stored | 2**32 - 2**bits), bits, got)
    np.testing.assert_array_equal(got, stored - 2 ** (bits - 1) - 1)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.integers(1, 40), st.integers(1, 8), st.integers(0, 3), st.integers(0, 999))
def test_sums_begin_with_the_negative_sum_of_all_taps(library, taps, planes, more, seed):
    rng = np.random.default_rng(seed)
    levels = rng.integers(0, 2**planes, (taps, 32)) | rng.choice([0, 2**planes - 1])
    words = in_words(levels[:, None] >> np.arange(planes)[:, None] & 1).reshape(-1)
    words = np.append(words, np.zeros(planes, np.uint32))
    names = np.arange(taps) * planes
    names = np.append(names, np.full(-taps % 4, taps * planes)).astype(np.uint16)
    bits = (taps * (2**planes - 1) + 2).bit_length() + 1 + more
    conv, start = struct(Conv, planes=planes, bits=bits), np.full(PLANES, 0x5A5A5A5A, np.uint32)
    call(library.start, conv, words, names, len(names), start)
    np.testing.assert_array_equal(of_planes(start[:, None], 32), 2 ** (bits - 1) + 1 - levels.sum(0))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    bits=st.integers(3, 26),
    steps=st.sampled_from([1, 2, 3, 4, 7, 15]),
    rows=st.sampled_from([1, 3]),
    narrow=st.booleans(),
    seed=st.integers(0, 999),
)
def test_sums_in_planes_become_levels(library, bits, steps, rows, narrow, seed):
    """With sums at the thresholds and beside them."""
    rng = np.random.default_rng(seed)
    bound = 2 ** (bits - 1) - 3
    reach = min(bound, 2**15 - 2) if narrow else bound
    thresholds = np.sort(rng.integers(-reach, reach + 2, (rows, steps)), axis=1)
    thresholds[0, 0], thresholds[-1, -1] = -reach, reach + 1
    levels = np.sort(rng.choice(np.arange(1, 2**14 + 1), steps, replace=False))
    levels = np.append(0, levels).astype(np.int64)
    planes = int(levels[-1]).bit_length()
    channel = rows - 1
    near = thresholds[channel][rng.integers(0, steps, 32)] + rng.integers(-1, 2, 32)
    sums = np.clip(np.where(rng.random(32) < 0.7, near, rng.integers(-bound, bound + 1, 32)), -bound, bound)
    arrays = {
        "narrow" if narrow else "wide": thresholds.astype(np.int16 if narrow else np.int32),
        "first": np.zeros(rows, np.uint16),
        "change": (levels[1:] ^ levels[:-1]).astype(np.uint16),
    }
    t = struct(Thresholds, **arrays, rows=rows, steps=steps, planes=planes)
    words = 3  # from plane to plane
    got = np.full((planes, words), 0x5A5A5A5A, np.uint32)
    call(library.compare, t, channel, sum_planes(sums + 2 ** (bits - 1) + 1), bits, got, words)
    passed = (sums[:, None] >= thresholds[channel]).sum(1)
    np.testing.assert_array_equal(of_planes(got[:, :1], 32), levels[passed])
    assert (got[:, 1:] == 0x5A5A5A5A).all()


def test_bits_are_counted(library):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2**32, 1000, dtype=np.uint32) >> rng.integers(0, 32, 1000, dtype=np.uint32)
    x = np.concatenate(
        [x, np.uint32([0, 1, 2**31, 2**32 - 1]), np.uint32(1) << np.arange(32, dtype=np.uint32)]
    )
    ones, zeros = np.zeros(len(x), np.int32), np.zeros(len(x), np.uintp)
    call(library.counts, x, len(x), ones, zeros)
    np.testing.assert_array_equal(ones, of_words(x[:, None], 32).sum(1))
    np.testing.assert_array_equal(zeros, [32 - int(n).bit_length() for n in x])
