"""Dense layers against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn as qnn


def levels(shape, bits=2, step=0.7):
    q = np.random.default_rng(0).integers(0, 2**bits, shape)
    return q, qnn.Levels(jnp.float32(q * step), jnp.float32(step), 2**bits - 1)


@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_a_binary_dense_layer_sums_levels_exactly(scale):
    layer = qnn.BinaryDense(40, 7, scale=scale, rngs=nnx.Rngs(0))
    q, x = levels((5, 40))
    sums = layer(x)
    kernel = np.asarray(layer.kernel[...], np.float64)[0, 0]
    size = np.abs(kernel).mean(None if scale == "layer" else 0)
    want = (q @ np.where(kernel >= 0, 1, -1)) * size * 0.7
    np.testing.assert_allclose(sums.value, want, rtol=1e-6)
    assert isinstance(sums, qnn.Sums) and sums.bound == 3 * 40 and sums.shape == (5, 7)


def test_the_gradient_of_a_binary_dense_layer_passes_straight_through():
    layer = qnn.BinaryDense(6, 3, rngs=nnx.Rngs(0))
    x, g = np.random.default_rng(0).normal(size=(4, 6)), np.random.default_rng(1).normal(size=(4, 3))
    of_x, of_kernel = jax.grad(
        lambda x, kernel: jnp.sum(nnx.merge(nnx.graphdef(layer), nnx.State({"kernel": kernel}))(x) * g),
        (0, 1),
    )(jnp.float32(x), layer.kernel)
    kernel = np.asarray(layer.kernel[...])[0, 0]
    binary = np.abs(kernel).mean() * np.where(kernel >= 0, 1, -1)
    np.testing.assert_allclose(of_x, g @ binary.T, rtol=1e-5)
    np.testing.assert_allclose(of_kernel[...][0, 0], x.T @ g, rtol=1e-5, atol=1e-6)


def test_a_float_dense_layer_is_a_matrix_product():
    layer = qnn.FloatDense(6, 3, rngs=nnx.Rngs(0))
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    np.testing.assert_allclose(layer(jnp.asarray(x)), x @ np.asarray(layer.kernel[...])[0, 0], rtol=1e-5)


def test_the_first_dense_layer_sums_pixels_exactly():
    layer = qnn.StemDense(784, 9, rngs=nnx.Rngs(0))
    assert layer.weight_bits == 6 and qnn.StemDense(3072, 9, rngs=nnx.Rngs(0)).weight_bits == 4
    doubled = np.random.default_rng(0).integers(-255, 256, (3, 784)) * 2
    sums = layer(jnp.float32(doubled / 128))
    kernel = np.asarray(layer.kernel[...], np.float64)[0, 0]
    unit = np.abs(kernel).max(0) / 31
    want = (doubled @ np.rint(kernel / unit)) * unit / 128
    np.testing.assert_allclose(sums.value, want, rtol=1e-5, atol=1e-4 * np.abs(want).max())
    assert sums.bound == 510 * 784 * 31 < 2**24


@pytest.mark.parametrize("layer", [qnn.BinaryDense, qnn.FloatDense, qnn.StemDense])
def test_images_are_refused_by_dense_layers(layer):
    with pytest.raises(
        ValueError,
        match=layer.__name__ + r" expects \[N, 4\], got shape \(1, 2, 2, 4\): qresnet_jax.nn.flatten",
    ):
        layer(4, 2, rngs=nnx.Rngs(0))(jnp.ones((1, 2, 2, 4)))
