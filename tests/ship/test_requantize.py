import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.requantize import requantizer

LOWEST, HIGHEST = -(2**15), 2**15 - 1
CHANNELS = 37
SEEDS = st.integers(0, 2**32 - 1)

# Bounds of a 1x1 shortcut on 16 channels, of 3x3 convolutions (64 and 512 channels, 2 bits), of a stream, of a stem.
BOUNDS = (1, 48, 1728, 4095, 4096, 13824, 2**15, 13_770 * 1023, 2**24)


def signed_powers(rng, low, high, zeros=0.1):
    """Random numbers with magnitudes 2**low .. 2**high, evenly over the exponents, some of them 0."""
    values = rng.choice([-1.0, 1.0], CHANNELS) * 2.0 ** rng.uniform(low, high, CHANNELS)
    return np.where(rng.random(CHANNELS) < zeros, 0.0, values)


def accumulators(rng, bound):
    """Integers `[200, CHANNELS]` over all magnitudes up to `bound`, both extremes and neighbours of 0 among them."""
    size = np.minimum(np.floor(2.0 ** rng.uniform(0, np.log2(bound) + 1, (195, CHANNELS))), bound)
    extremes = np.array([[bound], [-bound], [0], [1], [-1]]) * np.ones((1, CHANNELS))
    return np.concatenate([rng.choice([-1, 1], size.shape) * size, extremes]).astype(np.int32)


def requantized(acc, multiplier, offset, bound, fraction_bits):
    """What a node of these numbers computes, by the NumPy engine."""
    node = requantizer(np.asarray(multiplier), np.asarray(offset), bound, fraction_bits)
    return reference._apply(node, None, acc)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=SEEDS, bound=st.sampled_from(BOUNDS), fraction_bits=st.integers(0, 14), tame=st.booleans())
def test_every_sum_fits_the_width_that_engines_count_on(seed, bound, fraction_bits, tame):
    rng = np.random.default_rng(seed)
    # tame: batch norms as they are trained; else anything, such as a dead channel's multiplier of 1e12.
    multiplier = signed_powers(rng, -15, 0) if tame else signed_powers(rng, -60, 40)
    offset = signed_powers(rng, -6, 4) if tame else signed_powers(rng, -40, 60)
    node = requantizer(multiplier, offset, bound, fraction_bits)
    m, c = node.multiplier.astype(object), node.offset.astype(object)
    assert np.all(np.abs(m) < 2**18) and np.all(node.shift <= 36)
    assert np.max(np.abs(m) * bound + np.abs(c)) < 2 ** (31 if bound < 2**12 else 43)
    assert (node.multiplier.dtype, node.offset.dtype, node.shift.dtype) == (np.int32, np.int64, np.uint8)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=SEEDS, bound=st.sampled_from(BOUNDS), fraction_bits=st.integers(0, 10))
def test_it_stays_within_one_unit_of_the_real_function(seed, bound, fraction_bits):
    """M and C are rounded to 1/2, hence `(acc * M + C) / 2**k` is off by at most `(|acc| + 1) / 2**(k + 1)` units.

    With M of 18 bits that is 2**-18 of `acc * multiplier`, at most 2**16 units where neither the result nor the
    offset saturates: a quarter of a unit, 1/2 more by rounding to integers. A result that saturates is as good.
    """
    rng = np.random.default_rng(seed)
    multiplier, acc = signed_powers(rng, -40, -3 - fraction_bits * 0.75), accumulators(rng, bound)
    offset = rng.uniform(-1, 1, CHANNELS) * 2.0 ** (15 - fraction_bits)
    stream = requantized(acc, multiplier, offset, bound, fraction_bits)
    real = (acc * multiplier + offset) * 2.0**fraction_bits
    assert np.abs(stream - np.clip(real, LOWEST, HIGHEST)).max() <= 1


@pytest.mark.parametrize("fraction_bits", [4, 8, 12])
@pytest.mark.parametrize("multiplier", [0.3, 1.0, 5.0, 100.0])
def test_it_keeps_large_multipliers(multiplier, fraction_bits):
    """A 1x1 shortcut on 16 channels sums to a few units, so that its batch norm multiplies by 0.3 at initialisation."""
    acc = np.arange(-48, 49, dtype=np.int32)[:, None]
    stream = requantized(acc, [multiplier], [0.25], 48, fraction_bits)
    real = (acc * multiplier + 0.25) * 2**fraction_bits
    assert np.abs(stream - np.clip(real, LOWEST, HIGHEST)).max() <= 1  # see the test above


@pytest.mark.parametrize("bound", [48, 1728, 2**20])
def test_with_zero_multipliers_it_is_the_offset(bound):
    offset = np.array([0.0, 1.5, -0.25, 127.0, -1000.0, 1000.0])
    stream = requantized(np.full((2, 6), -bound, np.int32), np.zeros(6), offset, bound, 8)
    np.testing.assert_array_equal(stream, np.tile(np.clip(offset * 256, LOWEST, HIGHEST), (2, 1)))


def test_ties_are_rounded_up():
    acc = np.arange(-9, 10, dtype=np.int32)[:, None]  # half units of a grid of 2**-8
    stream = requantized(acc, [2.0**-9], [0.0], 9, 8)
    np.testing.assert_array_equal(stream, np.floor(acc / 2 + 0.5))


def test_a_dead_channels_multiplier_does_not_coarsen_its_neighbours():
    acc = np.repeat(np.arange(-500, 501, 7, dtype=np.int32)[:, None], 2, axis=1)
    alone = requantized(acc[:, :1], [0.013], [0.4], 1728, 8)
    beside = requantized(acc, [0.013, 1e12], [0.4, -1e15], 1728, 8)
    np.testing.assert_array_equal(beside[:, :1], alone)


def test_the_result_is_a_node_that_a_network_may_have():
    node = requantizer(np.array([1e30, 0.1]), np.array([-1e30, 0]), 100, 8)
    acc = nodes.Value("acc", 2, 100, nodes.ONE_PIXEL, nodes.ONE_PIXEL)
    assert nodes._requantize(node, acc).kind == "stream"
