"""Laws of pixel normalisation; every expected number is computed from the definition, in Python integers or float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax import pixels

ALL = np.arange(256, dtype=np.uint8)
HALVES = np.arange(511) / 2  # every mean that there may be


def normalized(mean):
    """All 256 pixels minus each of some means, float32 `[256, means]`."""
    return pixels.normalize(ALL[:, None], np.float32(mean))


def test_the_numbers_are_those_of_the_definition():
    assert (pixels.SCALE, pixels.UNITS, pixels.LARGEST) == (64, 128, 510)


def test_inputs_are_pixel_minus_mean_over_64_exactly():
    expected = (ALL[:, None].astype(np.float64) - HALVES) / 64
    x = normalized(HALVES)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, expected)


def test_inputs_times_the_units_are_the_integers_of_the_stem():
    integers = normalized(HALVES) * pixels.UNITS
    expected = 2 * ALL[:, None].astype(int) - pixels.double_mean(HALVES, len(HALVES)).astype(int)
    np.testing.assert_array_equal(integers, expected)
    assert np.abs(expected).max() == pixels.LARGEST  # reached: 2 * 255 - 2 * 0


def test_pixels_come_back_from_their_normalized_form():
    back = normalized(HALVES).astype(np.float64) * pixels.SCALE + HALVES
    np.testing.assert_array_equal(back, np.broadcast_to(ALL[:, None], back.shape))


@pytest.mark.parametrize("compile", [lambda f: f, jax.jit])
def test_numpy_and_jax_give_the_same_bits(compile):
    images = np.broadcast_to(ALL[:, None], (256, 511))
    by_jax = compile(pixels.normalize)(jnp.asarray(images), jnp.float32(HALVES))
    assert isinstance(by_jax, jax.Array) and by_jax.dtype == jnp.float32
    by_numpy = pixels.normalize(images, np.float32(HALVES))
    assert isinstance(by_numpy, np.ndarray)
    np.testing.assert_array_equal(np.asarray(by_jax).view(np.uint32), by_numpy.view(np.uint32))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.lists(st.floats(0, 255), min_size=1, max_size=4))
def test_rounded_means_are_the_nearest_half_integers(means):
    rounded = pixels.round_mean(np.array(means))
    assert rounded.dtype == np.float64
    assert np.all(np.abs(rounded - means) <= 0.25) and np.all(2 * rounded == np.rint(2 * rounded))
    np.testing.assert_array_equal(pixels.round_mean(rounded), rounded)
    np.testing.assert_array_equal(pixels.double_mean(rounded, len(means)), 2 * rounded)  # and accepted


def test_one_mean_serves_all_channels():
    doubled = pixels.double_mean(127.5, 3)
    assert doubled.dtype == np.int16 and doubled.tolist() == [255, 255, 255]
    assert pixels.double_mean([0.5, 10, 255], 3).tolist() == [1, 20, 510]


@pytest.mark.parametrize("mean", [127.3, [1.0, 2.25, 3.0], float("nan")])
def test_means_that_are_no_half_integers_are_refused(mean):
    with pytest.raises(ValueError, match="mean=.*: means must be multiples of 1/2, as they are in training"):
        pixels.double_mean(mean, 3)


@pytest.mark.parametrize("mean", [-0.5, 255.5, [0, 0, 2.0**15 + 50], float("inf")])
def test_means_that_no_image_can_have_are_refused(mean):
    with pytest.raises(ValueError, match="mean=.*: means must be 0 to 255"):
        pixels.double_mean(mean, 3)


def test_one_mean_for_each_channel_is_needed():
    with pytest.raises(ValueError, match="give one number, or one for each of the 3 channels"):
        pixels.double_mean([1.0, 2.0], 3)
