import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.quantize import weights


def kernel(shape=(3, 3, 5, 7), seed=0):
    w = np.random.default_rng(seed).normal(0, 0.1, shape).astype(np.float32)
    w.flat[::11] = 0
    return w


AXES = {"layer": None, "channel": (0, 1, 2)}


@pytest.mark.parametrize("scale", AXES)
def test_binarize_is_the_mean_magnitude_times_the_sign(scale):
    w = kernel()
    s = np.abs(w.astype(np.float64)).mean(AXES[scale])
    expected = s * np.where(w >= 0, 1, -1)
    np.testing.assert_allclose(
        weights.binarize(w, scale), expected, rtol=1e-6
    )  # a float32 mean of 315 numbers
    for mean in (weights.magnitude, weights.binary_scale):
        np.testing.assert_allclose(mean(w, scale), s, rtol=1e-6)
        assert np.shape(mean(w, scale)) == (() if scale == "layer" else (7,))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), scale=st.sampled_from(sorted(AXES)), exponent=st.integers(-20, 20))
def test_binarize_is_idempotent(seed, scale, exponent):
    for shape in ((3, 3, 5, 7), (3, 3, 16, 16)):
        once = weights.binarize(kernel(shape, seed) * np.float32(2.0**exponent), scale)
        np.testing.assert_array_equal(weights.binarize(once, scale), once)


@pytest.mark.parametrize("scale", AXES)
def test_binarize_passes_the_gradient_straight_through(scale):
    w, g = kernel(), kernel(seed=1)
    np.testing.assert_array_equal(jax.grad(lambda w: jnp.sum(weights.binarize(w, scale) * g))(w), g)


@pytest.mark.parametrize("scale", AXES)
def test_an_all_zero_kernel_binarizes_to_zeros(scale):
    np.testing.assert_array_equal(weights.binarize(jnp.zeros((3, 3, 2, 5)), scale), np.zeros((3, 3, 2, 5)))


def test_the_sign_of_zero_is_plus_one_and_keeps_the_dtype():
    w = jnp.asarray([0.0, -0.0, 1e-30, -1e-30, -2.0], jnp.bfloat16)
    assert weights.sign(w).dtype == jnp.bfloat16
    np.testing.assert_array_equal(weights.sign(w).astype(jnp.float32), [1, 1, 1, -1, -1])


@pytest.mark.parametrize("function", [weights.binarize, weights.magnitude, weights.binary_scale])
def test_an_unknown_scale_is_refused(function):
    with pytest.raises(ValueError, match=r"scale must be one of \('layer', 'channel'\), got 'row'"):
        function(jnp.ones((1, 1, 2, 2)), "row")
