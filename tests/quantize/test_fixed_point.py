import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qresnet_jax.quantize import fixed_point

LOWEST, HIGHEST = -(2**15), 2**15 - 1


@pytest.mark.parametrize("fraction_bits", [0, 4, 8, 12])
def test_round_to_grid_rounds_half_up_and_saturates(fraction_bits):
    rng = np.random.default_rng(0)
    # Sixteenths of a unit below 2**17 units: x + 1/2 is exact in float32, and exact ties occur.
    sixteenths = np.concatenate([np.arange(-64, 65), rng.integers(-(2**21), 2**21, 500)])
    x = (sixteenths / 16.0 * 2.0**-fraction_bits).astype(np.float32)
    expected = (
        np.clip(np.floor(x.astype(np.float64) * 2**fraction_bits + 0.5), LOWEST, HIGHEST)
        * 2.0**-fraction_bits
    )
    rounded = fixed_point.round_to_grid(jnp.asarray(x), fraction_bits)
    np.testing.assert_array_equal(rounded, expected)
    np.testing.assert_array_equal(fixed_point.round_to_grid(rounded, fraction_bits), expected)


def test_round_to_grid_passes_the_gradient_straight_through():
    x = jnp.asarray([-1e6, -0.3, 0.0, 0.002, 127.4, 1e6], jnp.float32)
    weights = jnp.arange(1.0, 7.0, dtype=jnp.float32)
    gradient = jax.grad(lambda x: jnp.sum(fixed_point.round_to_grid(x, 8) * weights))(x)
    np.testing.assert_array_equal(gradient, weights)


def test_saturating_add_is_integer_addition_within_int16():
    rng = np.random.default_rng(1)
    a, b = rng.integers(LOWEST, HIGHEST + 1, (2, 1000))
    a[:4], b[:4] = [HIGHEST, LOWEST, HIGHEST, LOWEST], [1, -1, LOWEST, LOWEST]
    total = fixed_point.saturating_add(jnp.float32(a / 256), jnp.float32(b / 256), 8)
    np.testing.assert_array_equal(np.asarray(total) * 256, np.clip(a + b, LOWEST, HIGHEST))


@pytest.mark.parametrize("height, width", [(1, 1), (1, 3), (3, 5), (7, 7), (8, 8)])
def test_mean_pool_rounds_the_exact_mean_half_up(height, width):
    rng = np.random.default_rng(height * 10 + width)
    stream = rng.integers(LOWEST, HIGHEST + 1, (3, height, width, 11))
    stream[0, :, :, :4] = [HIGHEST, LOWEST, 0, 1]
    stream[1] = rng.integers(-1, 2, stream[1].shape)  # small sums meet ties
    pooled = fixed_point.mean_pool(jnp.float32(stream / 256), 8)
    count = height * width
    expected = [
        [(2 * int(c.sum()) + count) // (2 * count) for c in np.moveaxis(image, -1, 0)] for image in stream
    ]
    np.testing.assert_array_equal(np.asarray(pooled) * 256, expected)


def test_mean_pool_has_the_gradient_of_the_mean():
    stream = jnp.float32(np.random.default_rng(2).integers(-999, 999, (2, 3, 5, 7)) / 256)
    gradient = jax.grad(lambda s: jnp.sum(fixed_point.mean_pool(s, 8)))(stream)
    np.testing.assert_allclose(gradient, np.full(stream.shape, 1 / 15), rtol=1e-6)  # one float32 division


def test_a_float_stream_is_left_as_it_is():
    x = jnp.asarray(np.random.default_rng(4).normal(size=(2, 3, 3, 5)) * 1e6, jnp.float32)
    np.testing.assert_array_equal(fixed_point.round_to_grid(x, None), x)
    np.testing.assert_array_equal(fixed_point.saturating_add(x, x, None), x + x)
    expected = np.asarray(x, np.float64).mean((1, 2))
    # float32 sums of 9 terms of about 1e6
    np.testing.assert_allclose(fixed_point.mean_pool(x, None), expected, rtol=1e-5, atol=1)
