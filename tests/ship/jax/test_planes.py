import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import reference
from qresnet_jax.ship.jax.planes import (
    Window,
    matrix_sum,
    pack_levels,
    plane_bits,
    plane_sum,
    sign_words,
    window_sum,
)

odd = st.sampled_from([1, 3, 5, 7])
size = st.integers(1, 9)


@st.composite
def convolutions(draw):
    """`(window, levels [N, H, W, C], signs [kh, kw, C, out])` of any geometry."""
    kernel, stride = (draw(odd), draw(odd)), draw(st.integers(1, 2))
    margin = (kernel[1] - 1) // 2 + draw(st.integers(0, 2))
    window = Window(kernel, stride, draw(size), draw(size), margin, draw(st.integers(1, 3)))
    channels, out = draw(st.sampled_from([1, 3, 16, 17, 40])), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    top = draw(st.sampled_from([1, 2, 3, 5, 255]))
    levels = rng.integers(0, top + 1, (window.batch, window.height, window.width, channels))
    signs = rng.choice(np.array([-1, 1], np.int8), (*kernel, channels, out))
    return window, levels, signs


def pitched(x, margin):
    """`[N, H, W, C]` -> `[C, L]`, with anything in the columns of no meaning."""
    x = np.pad(x, ((0, 0), (0, 0), (0, margin), (0, 0)), constant_values=77)
    return x.transpose(3, 1, 2, 0).reshape(x.shape[3], -1)


def images(x, window):
    """`[out, L]` -> `[N, H', W', out]`."""
    x = np.asarray(x).reshape(-1, window.out_height, window.pitch, window.batch)
    return x[:, :, : window.out_width].transpose(3, 1, 2, 0)


def bits_of(levels):
    return plane_bits(np.unique(levels).tolist()) or [0]


def apart(compute, *operands):
    return compute(*operands)


def by_planes(window, signs, bits, dtype, levels):
    planes = [window.phases(plane) for plane in pack_levels(levels, bits)]
    words = sign_words(signs)
    every_bit = np.full((*words.shape[:3], 1), 2**16 - 1, np.uint16)
    positive, total = (plane_sum(window, planes, w, bits, dtype, apart) for w in (words, every_bit))
    return 2 * positive - total


def by_products(window, signs, max_terms, levels):
    weights = signs.transpose(2, 0, 1, 3).astype(np.int32)
    return window_sum(window, window.phases(levels), weights, jnp.multiply, apart, max_terms)


def by_matrices(window, signs, dtype, levels):
    return matrix_sum(window, window.phases(levels.astype(dtype)), signs)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(convolutions(), st.sampled_from(["planes", "products", "matrices", "bfloat16"]))
def test_every_form_is_the_convolution(convolution, form):
    window, levels, signs = convolution
    expected = reference._convolve(levels, signs, window.stride)
    dtype = jnp.int16 if np.abs(expected).max() < 2**15 else jnp.int32
    compute = {
        "planes": functools.partial(by_planes, window, signs, bits_of(levels), dtype),
        "products": functools.partial(by_products, window, signs, 50),
        "matrices": functools.partial(by_matrices, window, signs, jnp.float32),
        "bfloat16": functools.partial(by_matrices, window, signs, jnp.bfloat16),
    }[form]
    result = jax.jit(compute)(jnp.asarray(pitched(levels, window.margin), jnp.int32))
    np.testing.assert_array_equal(images(result, window), expected)


@pytest.mark.parametrize("groups, max_terms", [(7, 18), (6, 18), (5, 1), (3, 1000)])
def test_loops_over_channels_leave_none_out(groups, max_terms):
    rng = np.random.default_rng(groups)
    window = Window((3, 3), 1, 4, 5, 1, 2)
    levels = rng.integers(0, 4, (2, 4, 5, groups))
    signs = rng.choice(np.array([-1, 1], np.int8), (3, 3, groups, 3))
    compute = functools.partial(by_products, window, signs, max_terms)
    result = jax.jit(compute)(jnp.asarray(pitched(levels, 1), jnp.int32))
    np.testing.assert_array_equal(images(result, window), reference._convolve(levels, signs, 1))


def test_counts_beyond_16_bits():
    # 3 * 3 * 7424 bits are more than a uint16 counts.
    window = Window((3, 3), 1, 3, 3, 1, 1)
    signs = np.ones((3, 3, 7424, 1), np.int8)
    signs[1, 1, :5] = -1
    compute = functools.partial(by_planes, window, signs, [0, 7], jnp.int32)
    result = jax.jit(compute)(jnp.full((7424, 12), 129, jnp.int32))
    assert images(result, window)[0, 1, 1, 0] == 129 * (9 * 7424 - 10)


def test_the_bits_that_occur():
    assert plane_bits([0, 1, 2, 3]) == [0, 1]
    assert plane_bits([0, 4, 6, 16384]) == [1, 2, 14]


def test_a_word_holds_16_channels_the_first_lowest():
    signs = np.full((1, 1, 18, 1), -1, np.int8)
    signs[0, 0, [0, 2, 17]] = 1
    assert sign_words(signs).tolist() == [[[[0b101]]], [[[0b10]]]]
    levels = jnp.where(signs[0, 0] > 0, 5, 0).astype(jnp.int16)
    low, high = pack_levels(levels, [0, 2])
    assert (low.dtype, low.tolist()) == (jnp.uint16, [[0b101], [0b10]])
    assert high.tolist() == low.tolist()


@pytest.mark.parametrize("shape", [(2, 7, 6, 3), (1, 1, 1, 1), (1, 2, 9, 2)])
def test_the_largest_in_the_window(shape):
    x = np.random.default_rng(1).integers(-100, 100, shape)
    window = Window((3, 3), 2, *shape[1:3], 2, shape[0])
    result = window.max(window.phases(jnp.asarray(pitched(x, 2)), border=-32768))
    expected = reference._windows(x, 3, 3, 2, border=-32768).max(axis=3)
    np.testing.assert_array_equal(images(result, window), expected)
