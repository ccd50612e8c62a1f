from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qresnet_jax.ops.convolution import (
    accumulate,
    binary_conv,
    exact_conv,
    float_conv,
    integer_conv,
    integers_of,
)
from qresnet_jax.ops.plain import plain_conv

# image (N, H, W, C), outputs, kernel size, stride: odd images, batch 1, channels that fill no vector
CASES = [
    ((1, 5, 7, 3), 5, 3, 1),
    ((2, 7, 5, 17), 33, 3, 2),
    ((2, 6, 8, 16), 7, 3, 2),
    ((1, 5, 5, 33), 2, 1, 1),
    ((3, 7, 4, 5), 6, 1, 2),
    ((1, 1, 1, 4), 3, 3, 1),
]


def patches(x_shape, kernel_size, stride):
    """`(output position, slices of the padded image)` of each output pixel, PyTorch padding `(k - 1) // 2`."""
    pad = (kernel_size - 1) // 2
    for i in range((x_shape[1] + 2 * pad - kernel_size) // stride + 1):
        for j in range((x_shape[2] + 2 * pad - kernel_size) // stride + 1):
            top, left = i * stride, j * stride
            yield (i, j), np.s_[:, top : top + kernel_size, left : left + kernel_size, :]


def padded(x, kernel_size):
    pad = (kernel_size - 1) // 2
    return np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


def conv_reference(x, kernel, stride):
    """Cross-correlation by a loop over the output pixels, in the dtype of its arguments."""
    k, values = kernel.shape[0], {}
    for position, window in patches(x.shape, k, stride):
        values[position] = np.tensordot(padded(x, k)[window], kernel, 3)
    height, width = np.max(list(values), axis=0) + 1
    return np.stack([values[i, j] for i in range(height) for j in range(width)], 1).reshape(
        x.shape[0], height, width, -1
    )


def conv_gradients(x, kernel, stride, g):
    """Gradients of `sum(g * conv(x, kernel))`, each output pixel handing its share back."""
    k = kernel.shape[0]
    dx, dkernel, big = np.zeros_like(padded(x, k)), np.zeros_like(kernel), padded(x, k)
    for (i, j), window in patches(x.shape, k, stride):
        dx[window] += np.tensordot(g[:, i, j], kernel, (1, 3))
        dkernel += np.tensordot(big[window], g[:, i, j], (0, 0))
    pad = (k - 1) // 2
    return dx[:, pad : dx.shape[1] - pad, pad : dx.shape[2] - pad], dkernel


def case(shape, outputs, k, max_level=3, seed=0):
    rng = np.random.default_rng(seed)
    q = rng.integers(0, max_level + 1, shape)
    w = rng.normal(0, 0.1, (k, k, shape[-1], outputs)).astype(np.float32)
    w.flat[::7] = 0
    return q, w, np.where(w >= 0, 1, -1)


def scale_of(w, scale):
    return np.abs(w.astype(np.float64)).mean(None if scale == "layer" else (0, 1, 2))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape, outputs, k, stride", CASES)
def test_the_accumulator_is_the_integer_sum(shape, outputs, k, stride, dtype):
    for max_level in (1, 3, 127, 255):
        q, w, signs = case(shape, outputs, k, max_level)
        step = jnp.float32(0.37 / max_level)
        x, strides, expected = jnp.float32(q) * step, (stride, stride), conv_reference(q, signs, stride)
        for known in (None, max_level):
            acc, factor = accumulate(x, jnp.asarray(w), step, strides, "layer", dtype, known)
            assert acc.dtype == jnp.float32
            np.testing.assert_array_equal(acc, expected)
            np.testing.assert_allclose(
                factor, scale_of(w, "layer") * float(step), rtol=1e-6
            )  # a float32 mean


def test_the_accumulator_is_exact_at_its_largest_and_in_any_channel_order():
    q, w, signs = case((1, 4, 4, 128), 5, 3, 255)
    q[:] = 255
    w[..., 0], signs[..., 0] = 1, 1
    order = np.random.default_rng(1).permutation(128)
    expected = conv_reference(q, signs, 1)
    assert expected.max() == 255 * 9 * 128
    for dtype in (jnp.float32, jnp.bfloat16):
        acc, _ = accumulate(jnp.float32(q), jnp.asarray(w), jnp.float32(1), (1, 1), "layer", dtype)
        shuffled, _ = accumulate(
            jnp.float32(q[..., order]), jnp.asarray(w[:, :, order]), jnp.float32(1), (1, 1), "layer", dtype
        )
        np.testing.assert_array_equal(acc, expected)
        np.testing.assert_array_equal(shuffled, expected)


@pytest.mark.parametrize("scale", ["layer", "channel"])
@pytest.mark.parametrize("shape, outputs, k, stride", CASES)
def test_binary_conv_is_the_float_convolution_with_the_binary_kernel(shape, outputs, k, stride, scale):
    q, w, signs = case(shape, outputs, k)
    step = np.float32(0.7)
    x = q * step
    expected = conv_reference(x.astype(np.float64), scale_of(w, scale) * signs, stride)
    out = binary_conv(
        jnp.asarray(x, jnp.float32), jnp.asarray(w), jnp.float32(step), (stride, stride), scale, jnp.float32
    )
    # float32 scale, step and products of exact sums
    np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape, outputs, k, stride", CASES[:3])
def test_binary_conv_without_a_step_takes_any_activations(shape, outputs, k, stride):
    _, w, signs = case(shape, outputs, k)
    x = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    expected = conv_reference(x.astype(np.float64), scale_of(w, "layer") * signs, stride)
    out = binary_conv(jnp.asarray(x), jnp.asarray(w), None, (stride, stride), "layer", jnp.float32)
    np.testing.assert_allclose(out, expected, atol=1e-5)  # float32 sums of up to 153 numbers around 0.1


# bfloat16 rounds the incoming gradients to 8 bits, and the sums again: some thousandths of the largest
@pytest.mark.parametrize(
    "dtype, tolerance",
    [(jnp.float32, 1e-5), pytest.param(jnp.bfloat16, 2e-2, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("step, max_level", [(0.7, 3), (0.7, None), (None, None)])
@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_gradients_are_those_of_the_float_convolution_passed_straight_through(
    dtype, tolerance, step, max_level, scale
):
    step = None if step is None else jnp.float32(step)
    for shape, outputs, k, stride in CASES[:5]:
        q, w, signs = case(shape, outputs, k)
        x = np.float32(q) * np.float32(0.7)
        binary = scale_of(w, scale) * signs
        g = np.random.default_rng(3).normal(size=conv_reference(x, binary, stride).shape).astype(np.float32)
        conv = partial(
            binary_conv, step=step, strides=(stride, stride), scale=scale, dtype=dtype, max_level=max_level
        )
        _, vjp = jax.vjp(conv, jnp.asarray(x), jnp.asarray(w))
        references = conv_gradients(x.astype(np.float64), binary, stride, g)
        for got, expected in zip(vjp(jnp.asarray(g)), references, strict=True):
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(got, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("scale", ["layer", "channel"])
@pytest.mark.parametrize(
    "shape, outputs, k, stride",
    [CASES[2], *(pytest.param(*case, marks=pytest.mark.slow) for case in CASES[:2])],
)
def test_the_way_that_gpus_take_leads_to_the_same_result(shape, outputs, k, stride, scale, monkeypatch):
    q, w, _ = case(shape, outputs, k)
    x = jnp.float32(q) * jnp.float32(0.7)

    def run():
        conv = lambda x, w: binary_conv(x, w, jnp.float32(0.7), (stride, stride), scale, jnp.float32, 3)  # noqa: E731
        out, pullback = jax.vjp(conv, x, jnp.asarray(w))
        g = np.random.default_rng(3).normal(size=out.shape).astype(np.float32)
        return out, *pullback(jnp.asarray(g))

    want, want_dx, want_dkernel = run()
    taken = []

    def on_cuda(*operands, default, **ways):
        taken.append("cuda" in ways)
        return ways.get("cuda", default)(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", on_cuda)
    got, dx, dkernel = run()
    assert sum(taken) == 3  # the three products
    np.testing.assert_array_equal(got, want)
    for a, b in ((dx, want_dx), (dkernel, want_dkernel)):
        assert np.linalg.norm(a - b) <= 2**-11 * np.linalg.norm(b)
        assert np.any(a != b)  # it was another way


def test_the_input_gradient_has_the_dtype_of_the_input():
    q, w, _ = case((1, 5, 5, 3), 4, 3)

    def conv(x):
        return jnp.sum(binary_conv(x, jnp.asarray(w), jnp.float32(1), (1, 1), "layer", jnp.float32))

    assert jax.grad(conv)(jnp.asarray(q, jnp.bfloat16)).dtype == jnp.bfloat16


def test_the_step_receives_no_gradient():
    q, w, _ = case((1, 5, 5, 3), 4, 3)

    def conv(s):
        return jnp.sum(binary_conv(jnp.float32(q), jnp.asarray(w), s, (1, 1), "layer", jnp.float32))

    assert jax.grad(conv)(jnp.float32(1)) == 0


@pytest.mark.parametrize("shape, outputs, k, stride", CASES)
def test_plain_conv_pads_as_pytorch_does(shape, outputs, k, stride):
    q, w, _ = case(shape, outputs, k)
    integers = np.round(w * 100)
    out = plain_conv(jnp.float32(q), jnp.float32(integers), (stride, stride))
    np.testing.assert_array_equal(out, conv_reference(q, integers.astype(int), stride))


def test_padding_differs_from_same_at_stride_two_on_even_images():
    q, w, _ = case((1, 8, 8, 3), 4, 3)
    x, kernel = jnp.float32(q), jnp.asarray(w)

    def same(stride):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    # float32 sums in another order
    np.testing.assert_allclose(plain_conv(x, kernel, (1, 1)), same(1), atol=1e-5)
    assert same(2).shape == plain_conv(x, kernel, (2, 2)).shape
    assert np.abs(same(2) - plain_conv(x, kernel, (2, 2))).max() > 0.1


@pytest.mark.parametrize("step", [0.01 / 3, 1 / 3, 0.7, 1.0, 123.4])
def test_levels_recovers_every_integer(step):
    q = np.arange(256)
    np.testing.assert_array_equal(integers_of(jnp.float32(q) * jnp.float32(step), jnp.float32(step)), q)


def test_levels_without_a_step_is_the_identity():
    x = jnp.float32([0.3, -1.7])
    assert integers_of(x, None) is x


# Sums of integers below 2**24 have no error in float32.
@pytest.mark.parametrize("dtype, tolerance", [(jnp.float32, 0), (jnp.bfloat16, 1e-2)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_the_exact_convolution_and_its_gradients_are_those_of_the_plain_one(strides, dtype, tolerance):
    rng = np.random.default_rng(0)
    x = jnp.float32(rng.integers(-510, 511, (2, 6, 8, 3)))
    kernel = jnp.float32(rng.integers(-1023, 1024, (3, 3, 3, 16)))
    got, back = jax.vjp(lambda x, kernel: exact_conv(x, kernel, strides, dtype), x, kernel)
    want, plain_back = jax.vjp(lambda x, kernel: plain_conv(x, kernel, strides), x, kernel)
    np.testing.assert_array_equal(got, want)
    g = jnp.float32(rng.integers(-3, 4, got.shape))
    (dx, dkernel), (plain_dx, plain_dkernel) = back(g), plain_back(g)
    np.testing.assert_array_equal(dx, plain_dx)
    assert dkernel.dtype == jnp.float32
    np.testing.assert_allclose(dkernel, plain_dkernel, rtol=0, atol=tolerance * np.abs(plain_dkernel).max())


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape, outputs, k, stride", CASES)
def test_the_float_convolution_and_its_gradients_are_those_of_the_definition(
    shape, outputs, k, stride, dtype
):
    rng = np.random.default_rng(0)
    x, kernel = (rng.normal(size=s) for s in (shape, (k, k, shape[-1], outputs)))
    x, kernel = (np.float64(jnp.asarray(a, dtype)) for a in (x, kernel))

    def conv(x, kernel):
        return float_conv(jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), (stride, stride))

    out, pull = jax.vjp(conv, jnp.asarray(x, dtype), jnp.asarray(kernel, dtype))
    g = np.float64(jnp.asarray(rng.normal(size=out.shape), dtype))
    assert out.dtype == dtype
    tolerance = 1e-5 if dtype == jnp.float32 else 0.05
    np.testing.assert_allclose(np.float64(out), conv_reference(x, kernel, stride), tolerance, 20 * tolerance)
    for got, want in zip(pull(jnp.asarray(g, dtype)), conv_gradients(x, kernel, stride, g), strict=True):
        assert got.dtype == dtype
        np.testing.assert_allclose(np.float64(got), want, tolerance, 20 * tolerance)


@pytest.mark.parametrize("channels, in_float16", [(64, True), (75, True), (76, False), (128, False)])
def test_gpus_sum_in_float16_only_what_it_holds(channels, in_float16):
    """3 * 9 * 75 = 2025 <= 2048 < 3 * 9 * 76."""
    q, kernel = jnp.ones((1, 4, 4, channels)), jnp.ones((3, 3, channels, 2))
    conv = jax.jit(lambda q, kernel: integer_conv(q, kernel, (1, 1), 3, jnp.float32))
    program = conv.trace(q, kernel).lower(lowering_platforms=("cuda",)).as_text()
    assert program.count("stablehlo.convolution") == 1
    assert ("f16" in program) is in_float16


@pytest.mark.parametrize(
    "dtype, step, max_level, precision, operands",
    [
        (jnp.float32, 1, 3, None, "f16"),
        (jnp.float32, 1, 3, "tensorfloat32", "f16"),
        (jnp.float32, 1, 3, "float32", "f32"),
        (jnp.float32, 1, 3, "highest", "f32"),
        (jnp.float32, None, 3, None, "f32"),
        (jnp.float32, 1, None, None, "f32"),
        (jnp.float32, 1, 2**14, None, "f32"),
        (jnp.bfloat16, 1, 3, None, "bf16"),
    ],
)
def test_gpus_multiply_gradients_of_integers_in_float16(dtype, step, max_level, precision, operands):
    def gradients(x, kernel, g):
        conv = lambda x, kernel: binary_conv(x, kernel, step, (1, 1), "layer", dtype, max_level)  # noqa: E731
        return jax.vjp(conv, x, kernel)[1](g)

    step = None if step is None else jnp.float32(step)
    arguments = jnp.ones((1, 4, 4, 5)), jnp.ones((3, 3, 5, 2)), jnp.ones((1, 4, 4, 2))
    with jax.default_matmul_precision(precision):
        program = jax.jit(gradients).trace(*arguments).lower(lowering_platforms=("cuda",)).as_text()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 2
    assert all(line.count(f"x{operands}>") == 3 for line in convolutions)


def test_the_largest_level_means_nothing_without_a_step():
    x, kernel = (
        jax.random.normal(jax.random.key(i), shape) for i, shape in ((0, (2, 5, 5, 3)), (1, (3, 3, 3, 4)))
    )

    def run(max_level):
        conv = lambda x, kernel: binary_conv(x, kernel, None, (1, 1), "layer", jnp.float32, max_level)  # noqa: E731
        out, pullback = jax.vjp(conv, x, kernel)
        return out, *pullback(out)

    for got, want in zip(run(3), run(None), strict=True):
        np.testing.assert_array_equal(got, want)
