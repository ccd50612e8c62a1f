import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import reference
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.jax.planes import (
    Reading,
    matrix_sum,
    pack_levels,
    plane_bits,
    plane_sum,
    sign_words,
    window_sum,
)


@st.composite
def readings(draw):
    """A reading of any geometry: half of the windows are centered ones, a few are whole images."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    kind = draw(st.sampled_from(["centered", "centered", "any", "any", "whole"]))
    if kind == "whole":
        window = Window((height, width), (draw(st.integers(1, 3)), 1))
    elif kind == "centered":
        odd = st.sampled_from([1, 3, 5, 7])
        window = Window.centered((draw(odd), draw(odd)), draw(st.integers(1, 2)))
    else:
        size = draw(st.integers(1, 6)), draw(st.integers(1, 6))
        padding = [(draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in size]
        for axis, n in enumerate((height, width)):
            if n + sum(padding[axis]) < size[axis]:
                padding[axis] = (size[axis] - 1,) * 2
        window = Window(size, (draw(st.integers(1, 4)), draw(st.integers(1, 4))), tuple(padding))
    return Reading(window, height, width, draw(st.integers(0, 3)), draw(st.integers(1, 3)))


@st.composite
def convolutions(draw):
    """`(reading, levels [N, H, W, C], signs [kh, kw, C, out])` of any geometry."""
    reading = draw(readings())
    channels, out = draw(st.sampled_from([1, 3, 16, 17, 40])), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = draw(st.sampled_from([1, 2, 3, 5, 255]))
    levels = rng.integers(0, top + 1, (reading.batch, reading.height, reading.width, channels))
    signs = rng.choice(np.array([-1, 1], np.int8), (*reading.window.size, channels, out))
    return reading, levels, signs


def pitched(x, unused):
    """`[N, H, W, C]` -> `[C, L]`, with anything in the unused columns."""
    x = np.pad(x, ((0, 0), (0, 0), (0, unused), (0, 0)), constant_values=77)
    return x.transpose(3, 1, 2, 0).reshape(x.shape[3], -1)


def images(x, reading):
    """`[out, L]` -> `[N, H', W', out]`."""
    height, width = reading.out_size
    x = np.asarray(x).reshape(-1, height, reading.pitch, reading.batch)
    return x[:, :, :width].transpose(3, 1, 2, 0)


def channels_first(signs):
    return signs.transpose(2, 0, 1, 3)


def bits_of(levels):
    return plane_bits(np.unique(levels).tolist()) or [0]


def compiled(compute):
    return jax.jit(compute, compiler_options={"xla_backend_optimization_level": 0})  # compiles faster


def apart(compute, *operands):
    return compute(*operands)


def by_planes(reading, signs, bits, dtype, levels):
    planes = [reading.phases(plane) for plane in pack_levels(levels, bits)]
    words = sign_words(channels_first(signs))
    every_bit = np.full((*words.shape[:3], 1), 2**16 - 1, np.uint16)
    positive, total = (plane_sum(reading, planes, w, bits, dtype, apart) for w in (words, every_bit))
    return 2 * positive - total


def by_products(reading, signs, max_terms, levels):
    weights = channels_first(signs).astype(np.int32)
    return window_sum(reading, reading.phases(levels), weights, jnp.multiply, apart, max_terms)


def by_matrices(reading, signs, dtype, levels):
    return matrix_sum(reading, reading.phases(levels.astype(dtype)), channels_first(signs))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(convolutions(), st.integers(0, 2), st.sampled_from(["planes", "products", "matrices", "bfloat16"]))
def test_every_form_is_the_convolution(convolution, unused, form):
    reading, levels, signs = convolution
    expected = reference._convolve(levels, signs, reading.window)
    dtype = jnp.int16 if np.abs(expected).max() < 2**15 else jnp.int32
    compute = {
        "planes": functools.partial(by_planes, reading, signs, bits_of(levels), dtype),
        "products": functools.partial(by_products, reading, signs, 50),
        "matrices": functools.partial(by_matrices, reading, signs, jnp.float32),
        "bfloat16": functools.partial(by_matrices, reading, signs, jnp.bfloat16),
    }[form]
    result = compiled(compute)(jnp.asarray(pitched(levels, unused), jnp.int32))
    np.testing.assert_array_equal(images(result, reading), expected)


@pytest.mark.parametrize(
    "window",
    [
        Window((1, 3), padding=((0, 0), (0, 1))),
        Window((3, 1), padding=((0, 1), (0, 0))),
        Window((2, 5), padding=((1, 0), (0, 3))),
        Window((2, 5), (1, 2), ((0, 1), (4, 0))),
        Window((3, 4), (4, 1), ((2, 0), (1, 2))),
        Window((1, 2), (3, 5)),
    ],
)
def test_rows_do_not_touch(window):
    """Even where all unused columns are those that the window needs."""
    rng = np.random.default_rng(0)
    reading = Reading(window, 6, 7, 0, 2)
    levels, signs = rng.integers(1, 9, (2, 6, 7, 1)), np.ones((*window.size, 1, 1), np.int8)
    result = compiled(functools.partial(by_products, reading, signs, 50))(pitched(levels, 1).astype(np.int32))
    np.testing.assert_array_equal(images(result, reading), reference._convolve(levels, signs, window))


@pytest.mark.parametrize("channels, max_terms", [(7, 18), (6, 18), (5, 1), (3, 1000)])
def test_loops_over_channels_leave_none_out(channels, max_terms):
    rng = np.random.default_rng(channels)
    reading = Reading(Window.centered((3, 3)), 4, 5, 1, 2)
    levels = rng.integers(0, 4, (2, 4, 5, channels))
    signs = rng.choice(np.array([-1, 1], np.int8), (3, 3, channels, 3))
    compute = functools.partial(by_products, reading, signs, max_terms)
    result = compiled(compute)(jnp.asarray(pitched(levels, 1), jnp.int32))
    np.testing.assert_array_equal(images(result, reading), reference._convolve(levels, signs, reading.window))


def test_counts_beyond_16_bits():
    # 3 * 3 * 7424 bits are more than a uint16 counts.
    reading = Reading(Window.centered((3, 3)), 3, 3, 1, 1)
    signs = np.ones((3, 3, 7424, 1), np.int8)
    signs[1, 1, :5] = -1
    compute = functools.partial(by_planes, reading, signs, [0, 7], jnp.int32)
    result = compiled(compute)(jnp.full((7424, 12), 129, jnp.int32))
    assert images(result, reading)[0, 1, 1, 0] == 129 * (9 * 7424 - 10)


def test_a_window_that_is_the_whole_image_has_one_tap_and_no_unused_columns():
    reading = Reading(Window((5, 7), (2, 3)), 5, 7, 3, 2)
    assert (reading.is_whole, reading.pitch, len(list(reading.taps()))) == (True, 1, 1)
    assert not Reading(Window((5, 7), padding=((0, 0), (0, 1))), 5, 7, 3, 2).is_whole


def test_images_of_one_size_are_aligned():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 2, 3, 4, 5))
    reading = Reading(Window((1, 1)), 3, 4, 1, 2)
    for unused in ((0, 2), (1, 1)):
        x = [jnp.asarray(pitched(image, n)) for image, n in zip((a, b), unused, strict=True)]
        got = reading.aligned(x)
        assert got[0].shape == got[1].shape
        np.testing.assert_array_equal(reading.pixels(got[0]), a.transpose(3, 1, 2, 0))
        np.testing.assert_array_equal(reading.pixels(got[1]), b.transpose(3, 1, 2, 0))


def test_the_bits_that_occur():
    assert plane_bits([0, 1, 2, 3]) == [0, 1]
    assert plane_bits([0, 4, 6, 16384]) == [1, 2, 14]


def test_a_word_holds_16_channels_the_first_lowest():
    signs = np.full((18, 1, 1, 1), -1, np.int8)
    signs[[0, 2, 17]] = 1
    assert sign_words(signs).tolist() == [[[[0b101]]], [[[0b10]]]]
    levels = jnp.where(signs[:, 0, 0] > 0, 5, 0).astype(jnp.int16)
    low, high = pack_levels(levels, [0, 2])
    assert (low.dtype, low.tolist()) == (jnp.uint16, [[0b101], [0b10]])
    assert high.tolist() == low.tolist()


@settings(max_examples=20, deadline=None, derandomize=True)
@given(readings().filter(lambda reading: not reading.is_whole), st.integers(0, 2))
def test_the_largest_in_the_window(reading, unused):
    x = np.random.default_rng(1).integers(-100, 100, (reading.batch, reading.height, reading.width, 3))
    compute = compiled(lambda x: reading.max(reading.phases(x, border=-32768)))
    result = compute(jnp.asarray(pitched(x, unused), jnp.int16))
    expected = reference._windows(x, reading.window, border=-32768).max(axis=3)
    np.testing.assert_array_equal(images(result, reading), expected)
