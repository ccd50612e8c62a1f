import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.quantize import fixed_point

LOWEST, HIGHEST = -(2**15), 2**15 - 1
CHANNELS = 37
SEEDS = st.integers(0, 2**32 - 1)

# acc_max of a 1x1 shortcut on 16 channels, of 3x3 convolutions (64 and 512 channels, 2 bits), of a stream, of a stem.
ACC_MAX = (1, 48, 1728, 4095, 4096, 13824, 2**15, 13_770 * 1023, 2**24)


def signed_powers(rng, low, high, zeros=0.1):
    """Random float32 with magnitudes 2**low .. 2**high, evenly over the exponents, some of them 0."""
    values = rng.choice([-1.0, 1.0], CHANNELS) * 2.0 ** rng.uniform(low, high, CHANNELS)
    return np.where(rng.random(CHANNELS) < zeros, 0.0, values).astype(np.float32)


def accumulators(rng, acc_max):
    """Integers `[200, CHANNELS]` over all magnitudes up to `acc_max`, both extremes and neighbours of 0 among them."""
    size = np.minimum(np.floor(2.0 ** rng.uniform(0, np.log2(acc_max) + 1, (195, CHANNELS))), acc_max)
    extremes = np.array([[acc_max], [-acc_max], [0], [1], [-1]]) * np.ones((1, CHANNELS))
    return np.concatenate([rng.choice([-1, 1], size.shape) * size, extremes]).astype(np.int32)


def python_integers(acc, constants):
    """`(acc * M + C) >> k`, saturated, in Python integers, which cannot overflow."""
    m, high, low, k = (np.asarray(c).astype(object) for c in constants)
    total = (acc.astype(object) * m + (high * 2 ** np.minimum(k, 12) + low)) >> k
    return np.clip(total, LOWEST, HIGHEST).astype(np.int64)


def requantized(acc, multiplier, offset, acc_max, fraction_bits):
    constants = fixed_point.requantizer(jnp.asarray(multiplier), jnp.asarray(offset), acc_max, fraction_bits)
    stream = fixed_point.requantize(jnp.asarray(acc), constants, fraction_bits)
    assert stream.dtype == jnp.float32
    return np.asarray(stream, np.float64) * 2**fraction_bits, constants


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=SEEDS, acc_max=st.sampled_from(ACC_MAX), fraction_bits=st.integers(0, 14), tame=st.booleans())
def test_requantize_is_the_shifted_product_in_integers(seed, acc_max, fraction_bits, tame):
    rng = np.random.default_rng(seed)
    # tame: batch norms as they are trained; else anything, such as a dead channel's multiplier of 1e12.
    multiplier = signed_powers(rng, -15, 0) if tame else signed_powers(rng, -60, 40)
    offset = signed_powers(rng, -6, 4) if tame else signed_powers(rng, -40, 60)
    acc = accumulators(rng, acc_max)
    stream, constants = requantized(acc, multiplier, offset, acc_max, fraction_bits)
    np.testing.assert_array_equal(stream, python_integers(acc, constants))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS, acc_max=st.sampled_from(ACC_MAX), fraction_bits=st.integers(0, 10))
def test_requantize_stays_within_one_unit_of_the_float_function(seed, acc_max, fraction_bits):
    """M and C are rounded to 1/2, hence `(acc * M + C) / 2**k` is off by at most `(|acc| + 1) / 2**(k + 1)` units.

    With M of 18 bits that is 2**-18 of `acc * multiplier`, at most 2**16 units where neither the result nor the
    offset saturates: a quarter of a unit, 1/2 more by rounding to integers. A result that saturates is as good.
    """
    rng = np.random.default_rng(seed)
    multiplier, acc = signed_powers(rng, -40, -3 - fraction_bits * 0.75), accumulators(rng, acc_max)
    offset = (rng.uniform(-1, 1, CHANNELS) * 2.0 ** (15 - fraction_bits)).astype(np.float32)
    stream, _ = requantized(acc, multiplier, offset, acc_max, fraction_bits)
    real = (acc * multiplier.astype(np.float64) + offset) * 2.0**fraction_bits
    assert np.abs(stream - np.clip(real, LOWEST, HIGHEST)).max() <= 1


@pytest.mark.parametrize("fraction_bits", [4, 8, 12])
@pytest.mark.parametrize("multiplier", [0.3, 1.0, 5.0, 100.0])
def test_requantize_keeps_large_multipliers(multiplier, fraction_bits):
    """A 1x1 shortcut on 16 channels sums to a few units, so that its batch norm multiplies by 0.3 at initialisation."""
    acc = np.arange(-48, 49, dtype=np.int32)[:, None]
    stream, _ = requantized(acc, np.float32([multiplier]), np.float32([0.25]), 48, fraction_bits)
    real = (acc * float(np.float32(multiplier)) + 0.25) * 2**fraction_bits
    assert np.abs(stream - np.clip(real, LOWEST, HIGHEST)).max() <= 1  # see the test above


@pytest.mark.parametrize("acc_max", [48, 1728, 2**20])
def test_requantize_of_zero_multipliers_is_the_offset(acc_max):
    offset = np.float32([0.0, 1.5, -0.25, 127.0, -1000.0, 1000.0])
    stream, _ = requantized(np.full((2, 6), -acc_max, np.int32), np.zeros(6, np.float32), offset, acc_max, 8)
    np.testing.assert_array_equal(stream, np.tile(np.clip(offset * 256, LOWEST, HIGHEST), (2, 1)))


def test_requantize_rounds_ties_up():
    acc = np.arange(-9, 10, dtype=np.int32)[:, None]  # half units of a grid of 2**-8
    stream, _ = requantized(acc, np.float32([2.0**-9]), np.float32([0]), 9, 8)
    np.testing.assert_array_equal(stream, np.floor(acc / 2 + 0.5))


def test_a_dead_channels_multiplier_does_not_coarsen_its_neighbours():
    acc = np.repeat(np.arange(-500, 501, 7, dtype=np.int32)[:, None], 2, axis=1)
    alone, _ = requantized(acc[:, :1], np.float32([0.013]), np.float32([0.4]), 1728, 8)
    beside, _ = requantized(acc, np.float32([0.013, 1e12]), np.float32([0.4, -1e15]), 1728, 8)
    np.testing.assert_array_equal(beside[:, :1], alone)


def test_requantize_takes_integral_floats_and_runs_under_jit():
    rng = np.random.default_rng(3)
    multiplier, offset, acc = signed_powers(rng, -12, -4), signed_powers(rng, -4, 3), accumulators(rng, 2**24)
    eager, constants = requantized(acc, multiplier, offset, 2**24, 8)
    jitted = jax.jit(lambda a, c: fixed_point.requantize(a, c, 8))(jnp.asarray(acc, jnp.float32), constants)
    np.testing.assert_array_equal(np.asarray(jitted) * 256, eager)


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
