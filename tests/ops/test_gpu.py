"""The forms in float16 against exact sums and against the plain gradients; what they compute is the same on a CPU."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ops import gpu, plain

# images (N, H, W, C), outputs, kernel size, stride, largest level
CASES = [
    ((4, 8, 8, 16), 16, 3, 1, 3),
    ((3, 7, 5, 17), 33, 3, 2, 1),
    ((2, 6, 6, 5), 4, 1, 2, 255),
    ((1, 1, 1, 3), 2, 3, 1, 3),
]


def case(shape, out, k, stride, max_level, seed=0):
    """`(levels, signs, g, strides, bound)`; the images' gradients differ by powers of 4, as those of easy and hard ones."""
    rng = np.random.default_rng(seed)
    levels = jnp.float32(rng.integers(0, max_level + 1, shape))
    signs = jnp.float32(rng.choice([-1, 1], (k, k, shape[-1], out)))
    size = plain.plain_conv(levels, signs, (stride, stride)).shape
    g = rng.normal(size=size) * 4.0 ** -np.arange(shape[0])[:, None, None, None]
    return levels, signs, g, (stride, stride), gpu.gradient_bound(size, signs.shape, max_level)


def both(levels, signs, g, strides, bound):
    g = jnp.float32(g)
    dx = gpu.input_gradient(g, signs, strides, levels.shape, bound)
    return dx, gpu.kernel_gradient(g, levels, strides, signs.shape, bound)


@pytest.mark.parametrize("channels, max_level", [(16, 3), (64, 3), (32, 7), (227, 1)])
def test_float16_holds_every_sum_exactly(channels, max_level):
    levels, signs, *_ = case((2, 5, 5, channels), 4, 3, 1, max_level)
    levels = levels.at[0].set(max_level)
    signs = signs.at[..., 0].set(1).at[..., 1].set(-1)  # the largest sums of both signs
    want = plain.plain_conv(levels, signs, (1, 1))  # float32, exact
    assert abs(want).max() == max_level * 9 * channels
    np.testing.assert_array_equal(gpu.integer_conv(levels, signs, (1, 1)), want)


@pytest.mark.parametrize("exponent", [-40, -12, 0, 7, 50])
@pytest.mark.parametrize("shape", CASES)
def test_gradients_are_those_in_float32_but_for_11_bits(shape, exponent):
    levels, signs, g, strides, bound = case(*shape)
    g = np.ldexp(g, exponent)
    got = both(levels, signs, g, strides, bound)
    want = (
        plain.input_gradient(jnp.float32(g), signs, strides, levels.shape),
        plain.kernel_gradient(jnp.float32(g), levels, strides, signs.shape),
    )
    for a, b in zip(got, want, strict=True):
        assert a.dtype == jnp.float32
        scale = np.linalg.norm(np.asarray(b, np.float64))
        # Each g is off by at most 2**-12 of itself, and each sum again.
        assert np.linalg.norm(np.asarray(a, np.float64) - b) <= 2**-11 * scale


def test_a_small_gradient_beside_large_ones_keeps_its_bits():
    """An image whose gradient is 2**-6 of the others': as exact as they."""
    levels, signs, g, strides, bound = case((128, 8, 8, 16), 16, 3, 1, 3)
    g = np.random.default_rng(0).normal(size=g.shape)
    g[0] *= 2.0**-6
    dx, _ = both(levels, signs, g, strides, bound)
    want = plain.input_gradient(jnp.float32(g), signs, strides, levels.shape)
    assert np.linalg.norm(dx[0] - want[0]) <= 2**-11 * np.linalg.norm(want[0])


@pytest.mark.parametrize("value", [1.0, -3e-12, 2e12])
@pytest.mark.parametrize("shape", CASES)
def test_the_largest_sums_stay_in_range(shape, value):
    levels, signs, g, strides, bound = case(*shape)
    *_, max_level = shape
    levels, signs = jnp.full_like(levels, max_level), jnp.ones_like(signs)
    for a in both(levels, signs, np.full(g.shape, value), strides, bound):
        assert np.all(np.isfinite(a)) and np.any(a != 0)
    dx, dkernel = both(levels, signs, np.full(g.shape, value), strides, bound)
    want = plain.kernel_gradient(jnp.full(g.shape, value, jnp.float32), levels, strides, signs.shape)
    np.testing.assert_allclose(dkernel, want, rtol=2**-10)
    want = plain.input_gradient(jnp.full(g.shape, value, jnp.float32), signs, strides, levels.shape)
    np.testing.assert_allclose(dx, want, rtol=2**-10)


def test_no_gradient_gives_none():
    levels, signs, g, strides, bound = case(*CASES[0])
    for gradient in both(levels, signs, np.zeros_like(g), strides, bound):
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_stays_so(bad):
    levels, signs, g, strides, bound = case(*CASES[0])
    g[0, 3, 3, 0] = bad
    for gradient in both(levels + 1, signs, g, strides, bound):
        assert not np.all(np.isfinite(gradient))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    exponent=st.integers(-25, 50),
    bound=st.floats(1, 2**20),
    one=st.booleans(),
)
def test_halves_fit_their_bound(seed, exponent, bound, one):
    g = np.random.default_rng(seed).normal(size=(1 if one else 500)).astype(np.float32) * np.float32(
        2.0**exponent
    )
    half, unit = gpu.halve(jnp.asarray(g), bound)
    norm = np.linalg.norm(np.asarray(half, np.float64)) * bound
    assert half.dtype == jnp.float16 and unit.dtype == jnp.float32
    assert 2**13 <= norm <= 2**15 * (1 + 2**-11)
    assert np.frexp(unit)[0] == 0.5
    exact = np.abs(np.asarray(half, np.float64)) >= 2.0**-14  # float16's normal numbers
    np.testing.assert_allclose(np.float64(half)[exact] * float(unit), g[exact], rtol=2**-11)


def test_numbers_whose_squares_vanish_stay_in_range():
    g = np.full(2**20, 1.0e-19, np.float32)
    g[0] = 1.2e-19
    half, unit = gpu.halve(jnp.asarray(g), 2.0**12)
    assert np.linalg.norm(np.asarray(half, np.float64)) * 2.0**12 <= 2**15
    assert float(unit) == 2.0**-45


@pytest.mark.parametrize(
    "shape, max_level, fits",
    [
        ((128, 32, 32, 16), 3, True),
        ((1024, 32, 32, 16), 3, True),
        ((128, 32, 32, 16), 15, True),
        ((128, 32, 32, 16), 255, False),
        ((1024, 56, 56, 64), 3, False),
        ((1, 2, 2, 4), 2**11, True),
        ((1, 2, 2, 4), 2**11 + 1, False),
    ],
)
def test_there_is_a_bound_where_gradients_keep_their_bits(shape, max_level, fits):
    bound = gpu.gradient_bound(shape, (3, 3, 16, shape[-1]), max_level)
    assert (bound is not None) is fits
    if fits:  # |half|_2 * bound is above 2**14
        assert 2**14 / bound / np.prod(shape) ** 0.5 >= 2**-10
