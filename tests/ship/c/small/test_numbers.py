"""What becomes of the numbers of a tile: levels, or numbers of a stream."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ship.c.small.functions import Requantize, Thresholds, call, of_planes, struct

INT32 = 2**31


def thresholds_of(rng, steps, rows, low, high):
    """A `model_thresholds` with rising and falling channels, and a function that computes the levels of a channel.

    Channel 0 rises, and channel 1 falls: it has a level less from each of its numbers on.
    """
    t = np.sort(rng.integers(low, high + 1, (rows, steps)), axis=1)
    levels = np.append(0, np.sort(rng.choice(np.arange(1, max(steps, 40) * 4), steps, replace=False)))
    planes = int(levels[-1]).bit_length()
    narrow = t.min() >= -(2**15) and t.max() < 2**15
    if rows > 1:
        t[1] = t[1][::-1]  # the highest level is left at the largest number
    first = np.where(np.arange(rows) == 1, levels[-1], 0)
    arrays = {
        "narrow" if narrow else "wide": t.astype(np.int16 if narrow else np.int32),
        "first": first.astype(np.uint16),
        "change": (levels[1:] ^ levels[:-1]).astype(np.uint16),
    }

    def expected(x, channel):
        row = t[channel if rows > 1 else 0]
        reached = (x[:, None] >= row).sum(1)
        return levels[len(row) - reached if rows > 1 and channel == 1 else reached]

    return struct(Thresholds, **arrays, rows=rows, steps=steps, planes=planes), t, expected


@settings(max_examples=250, deadline=None, derandomize=True)
@given(
    steps=st.sampled_from([1, 2, 3, 4, 15, 255]),
    rows=st.sampled_from([1, 3]),
    channel=st.integers(0, 2),
    pixels=st.integers(1, 32),
    kind=st.sampled_from(["stream", "few", "others", "wide"]),
    seed=st.integers(0, 999),
)
def test_numbers_become_levels(library, steps, rows, channel, pixels, kind, seed):
    """Of a stream or of 32 bits, at the thresholds and beside them, up to the largest that there are."""
    rng = np.random.default_rng(seed)
    # A threshold that nothing reaches is one above the largest number.
    reach = {"stream": 2**15, "few": 3, "others": 2**15 - 2, "wide": 2**24}[kind]
    t, values, expected = thresholds_of(rng, steps, rows, -reach, reach + 1)
    near = rng.choice(values[channel if rows > 1 else 0], pixels) + rng.integers(-1, 2, pixels)
    x = np.where(rng.random(pixels) < 0.6, near, rng.integers(-reach, reach, pixels))
    is_stream = kind in ("stream", "few")
    x = np.clip(x, -reach, reach - is_stream)
    given_as = (x.astype(np.int16), None) if is_stream else (None, x.astype(np.int32))
    words = 2  # from plane to plane
    got = np.full((t.planes, words), 0x5A5A5A5A, np.uint32)
    call(library.quantize, t, channel, *given_as, pixels, got, words)
    np.testing.assert_array_equal(of_planes(got[:, :1], pixels), expected(x, channel))
    assert (got[:, 1:] == 0x5A5A5A5A).all()


def saturated(x):
    return min(max(x, -(2**15)), 2**15 - 1)


def check_written(library, r, constants, x, addend, relu, in_place=False):
    """Compares with Python's integers. `constants` are multiplier, offset and shift of the channel, or None."""
    expected = []
    for value, more in zip(x, addend if addend is not None else [0] * len(x), strict=True):
        y = int(value)
        if constants is not None:
            multiplier, offset, shift = constants
            y = saturated((y * multiplier + offset) >> shift)
        y = saturated(y + int(more))
        expected.append(max(y, 0) if relu else y)
    out = addend.copy() if in_place else np.full(len(x), 12345, np.int16)
    numbers = np.append(x, np.full(32 - len(x), 7)).astype(np.int32)
    call(library.write_stream, r, 1, numbers, addend, relu, len(x), out)
    np.testing.assert_array_equal(out, expected)


def drawn_numbers(rng, bound, pixels):
    """Numbers up to a bound, of all magnitudes, and the bounds themselves."""
    x = rng.integers(-bound, bound + 1, pixels) >> rng.integers(0, 20, pixels)
    return np.where(rng.random(pixels) < 0.3, rng.choice([-bound, bound], pixels), x)


def drawn_addend(rng, pixels):
    if rng.random() < 0.4:
        return None
    reach = rng.choice([3, 2**15])
    return rng.integers(-reach, reach, pixels).astype(np.int16)


KINDS = ("narrow", "wide", "large")


@st.composite
def constants(draw):
    """A kind, a bound of the numbers, and multiplier, offset and shift at the edges of what the kind takes."""
    kind, bound = draw(st.sampled_from(KINDS)), draw(st.sampled_from([1, 5, 2**12, 2**15, 2**24 - 1]))
    if kind == "large":
        shift, limit = draw(st.integers(0, 40)), 2**60 + bound * INT32
    elif kind == "wide":
        shift = draw(st.integers(0, 32))
        limit = 2 ** (30 + shift)
    else:
        shift, limit = draw(st.integers(1, 31)), INT32 - 1
    most = min((limit - 1) // bound, INT32 - 1)
    multiplier = draw(st.sampled_from([most, -most, most // 2, 1, -1, 0, 7]))
    if kind == "large" and draw(st.booleans()):
        multiplier = -INT32
    left = min(limit - 1 - bound * abs(multiplier), 2**60 - 1)
    left = max(left, 0)
    offset = draw(st.sampled_from([left, -left, left // 3, 0, -min(left, 1), min(left, 2**shift // 2)]))
    return kind, bound, (multiplier, offset, shift)


@settings(max_examples=400, deadline=None, derandomize=True)
@given(constants(), st.integers(1, 32), st.booleans(), st.booleans(), st.integers(0, 999))
def test_numbers_are_rescaled_and_written(library, drawn, pixels, relu, in_place, seed):
    """With the constants of another channel beside them."""
    kind, bound, (multiplier, offset, shift) = drawn
    rng = np.random.default_rng(seed)
    dtype = np.int32 if kind == "narrow" else np.int64
    arrays = {"multiplier": np.int32([99, multiplier]), "shift": np.uint8([3, shift])}
    r = struct(Requantize, **arrays, **{kind: np.array([5, offset], dtype)})
    addend = drawn_addend(rng, pixels)
    x = drawn_numbers(rng, bound, pixels)
    check_written(library, r, drawn[2], x, addend, relu, in_place and addend is not None)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 32), st.booleans(), st.integers(0, 999))
def test_numbers_of_a_stream_are_written_as_they_are(library, pixels, relu, seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-(2**15), 2**15, pixels)
    check_written(library, None, None, x, drawn_addend(rng, pixels), relu)


@pytest.mark.parametrize("relu", [False, True])
def test_sums_are_saturated_after_each_step(library, relu):
    """First what is rescaled, then the sum."""
    constants = {"multiplier": np.int32([0, 2**20]), "shift": np.uint8([0, 1])}
    r = struct(Requantize, **constants, large=np.int64([0, 0]))
    x, addend = np.int32([9, 9, -9, -9]), np.int16([-1, 1, 1, -1])
    check_written(library, r, (2**20, 0, 1), x, addend, relu)
