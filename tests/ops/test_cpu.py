"""The fast forms against the plain ones: the same integers, and the same gradients up to float32 summation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qresnet_jax.ops import cpu, plain

# input channels, output channels, height, width, kernel size, strides: every form, and sizes that none fits
SHAPES = [
    (16, 16, 7, 6, 3, (1, 1)),
    (16, 16, 6, 7, 3, (1, 1)),
    (3, 40, 5, 4, 3, (1, 1)),
    (40, 3, 5, 4, 3, (1, 1)),
    (16, 32, 6, 10, 3, (2, 2)),
    (16, 32, 7, 8, 3, (2, 2)),
    (16, 32, 8, 5, 3, (2, 2)),
    (40, 7, 8, 8, 3, (2, 2)),
    (16, 32, 8, 8, 1, (2, 2)),
    (16, 32, 7, 7, 1, (1, 1)),
    (4, 4, 6, 6, 3, (2, 1)),
    (1, 1, 1, 2, 3, (1, 1)),
]


def case(shape):
    channels, out, height, width, k, strides = shape
    rng = np.random.default_rng(sum(shape[:5]))
    x = rng.integers(0, 128, (2, height, width, channels)).astype(np.float32)
    signs = rng.choice([-1.0, 1.0], (k, k, channels, out)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(signs), strides


@pytest.mark.parametrize("shape", SHAPES)
def test_the_integer_convolution_gives_the_same_integers(shape):
    x, signs, strides = case(shape)
    got = cpu.integer_conv(x, signs, strides)
    np.testing.assert_array_equal(got, plain.plain_conv(x, signs, strides))
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("shape", SHAPES)
def test_the_float_convolution_of_integers_gives_the_same_integers(shape):
    x, signs, strides = case(shape)
    kernel = signs * jnp.arange(1, 1 + signs.size, dtype=jnp.float32).reshape(signs.shape) % 1024
    got = cpu.float_conv(x, kernel, strides)
    np.testing.assert_array_equal(got, plain.plain_conv(x, kernel, strides))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_input_gradient_is_the_transpose(shape, dtype):
    x, signs, strides = case(shape)
    size = plain.plain_conv(x, signs, strides).shape
    # Integers of few bits make every sum exact, in bfloat16's products too: the forms must agree to the bit.
    g = jnp.asarray(np.random.default_rng(0).integers(-1, 2, size), dtype)
    got = cpu.input_gradient(g, signs.astype(dtype), strides, x.shape)
    want = plain.input_gradient(g.astype(jnp.float32), signs, strides, x.shape)
    assert got.dtype == dtype
    tolerance = 0 if dtype == jnp.float32 else 2**-8  # the result is rounded to bfloat16's 8 bits
    np.testing.assert_allclose(got.astype(jnp.float32), want, rtol=tolerance)


@pytest.mark.parametrize("images", [0, 1, 16, 17, 300])
@pytest.mark.parametrize("shape", SHAPES[4:7])
def test_the_kernel_gradient_is_the_sum_over_all_images(shape, images):
    channels, _, height, width, _, strides = shape
    rng = np.random.default_rng(images)
    x = jnp.asarray(rng.integers(-3, 4, (images, height, width, channels)), jnp.float32)
    _, signs, _ = case(shape)
    # Integers make every sum exact, in any order.
    g = jnp.asarray(rng.integers(-3, 4, plain.plain_conv(x, signs, strides).shape), jnp.float32)
    got = cpu.kernel_gradient(g, x, strides, signs.shape)
    np.testing.assert_array_equal(got, plain.kernel_gradient(g, x, strides, signs.shape))


def test_the_kernel_gradient_of_many_images_has_few_parts():
    g, x = jnp.ones((1000, 2, 2, 1)), jnp.ones((1000, 2, 2, 1))
    traced = jax.make_jaxpr(lambda g, x: cpu.kernel_gradient(g, x, (1, 1), (3, 3, 1, 1)))(g, x)
    assert str(traced).count("conv_general_dilated[") <= 16


@pytest.mark.parametrize("shape", SHAPES)
def test_the_plain_transposes_are_adjoint(shape):
    """`<conv(x, w), g> = <x, input_gradient(g, w)> = <w, kernel_gradient(g, x)>`, exact in small integers."""
    x, signs, strides = case(shape)
    y = plain.plain_conv(x, signs, strides)
    g = jnp.asarray(np.random.default_rng(1).integers(-1, 2, y.shape), jnp.float32)
    product = np.vdot(np.asarray(y, np.float64), g)
    dx = plain.input_gradient(g, signs, strides, x.shape)
    dw = plain.kernel_gradient(g, x, strides, signs.shape)
    assert np.vdot(np.asarray(dx, np.float64), x) == product
    assert np.vdot(np.asarray(dw, np.float64), signs) == product


def test_keep_is_the_identity_and_differentiable():
    x = jnp.arange(3.0)
    np.testing.assert_array_equal(cpu.keep(x), x)
    np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: (cpu.keep(x) ** 2).sum()))(x), 2 * x)
