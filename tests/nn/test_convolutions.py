import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.models.architecture import max_stem_weight_bits
from qresnet_jax.nn.variables import FloatKernel
from tests.nn.layer_cases import RNGS, integer_conv, pixels


@pytest.mark.parametrize(
    "kernel_size, strides, size", [(3, 1, (5, 7)), (3, 2, (3, 4)), ((1, 1), (2, 2), (3, 4))]
)
def test_convolutions_have_pytorchs_shapes_and_float32_kernels(kernel_size, strides, size):
    x = jnp.zeros((1, 5, 7, 3), jnp.float32)
    shape = (3, 5, kernel_size, strides)
    modules = {
        nn.BinaryKernel: nn.BinaryConv(*shape, rngs=RNGS),
        FloatKernel: nn.FloatConv(*shape, rngs=RNGS),
    }
    for variable, conv in modules.items():
        assert type(conv.kernel) is variable
        assert conv.kernel[...].dtype == jnp.float32
        assert conv(x).shape == (1, *size, 5)
        assert conv(x).dtype == jnp.float32
    stem = nn.StemConv(*shape, weight_bits=11, dtype=jnp.float32, rngs=RNGS)
    assert type(stem.kernel) is nnx.Param
    assert stem(x).shape == (1, *size, 5)


def test_kernels_are_drawn_with_fan_out_variance():
    for conv in (nn.BinaryConv(64, 50, 3, rngs=RNGS), nn.FloatConv(64, 50, 3, rngs=RNGS)):
        kernel = np.asarray(conv.kernel[...], np.float64)
        deviation = np.sqrt(2 / (9 * 50))
        assert abs(kernel.std() / deviation - 1) < 0.02  # 28,800 draws: 4 standard errors
        assert abs(kernel.mean()) < 0.03 * deviation


@pytest.mark.parametrize("shape", [(3, 5, 1), (64, 50, 3), (128, 64, 3)])
def test_kernels_have_the_values_of_one_draw_of_their_shape(shape):
    """The largest one takes more numbers than are drawn at once."""
    kernel = nn.FloatConv(*shape, rngs=nnx.Rngs(7)).kernel[...]
    deviation = jnp.float32(np.sqrt(2 / (shape[2] ** 2 * shape[1])))
    want = jax.random.normal(nnx.Rngs(7).params(), kernel.shape) * deviation
    np.testing.assert_array_equal(kernel, want)


@pytest.mark.parametrize("weight_bits", [None, 11])
def test_the_float_twins_convolve_like_the_binary_convolution_pads(weight_bits):
    x = pixels((2, 5, 6, 3))
    stem = nn.StemConv(3, 5, 3, 2, weight_bits=weight_bits, dtype=jnp.float32, rngs=RNGS)
    twin = nn.FloatConv(3, 5, 3, 2, rngs=RNGS)
    twin.kernel[...] = stem.kernel[...]
    scale = 2.0**20
    expected = integer_conv(x, np.round(np.asarray(stem.kernel[...], np.float64) * scale), 2) / scale / 128
    # float32 sums, or the rounding of weights to 11 bits: half of 1/1023 of the largest, 27 times, pixels up to 4
    tolerance = 1e-4 if weight_bits is None else 27 * 4 * np.abs(stem.kernel[...]).max() / 1023 / 2
    np.testing.assert_allclose(stem(jnp.float32(x / 128)), expected, atol=tolerance)
    np.testing.assert_allclose(twin(jnp.float32(x / 128)), expected, atol=1e-4)


@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_binary_conv_sums_levels_and_signs_and_scales_them(scale):
    conv = nn.BinaryConv(5, 7, 3, scale=scale, rngs=RNGS)
    q = np.random.default_rng(0).integers(0, 4, (1, 5, 3, 5))
    x, step = jnp.float32(q) * jnp.float32(0.3), jnp.float32(0.3)
    kernel = np.asarray(conv.kernel[...], np.float64)
    s = np.abs(kernel).mean(None if scale == "layer" else (0, 1, 2))
    expected = integer_conv(q, np.where(kernel >= 0, 1, -1)) * (s * float(step))
    levels = nn.Levels(x, step, 3)
    np.testing.assert_allclose(conv(levels), expected, rtol=1e-6)  # a float32 mean and two products
    np.testing.assert_allclose(conv(x), expected, atol=1e-5)  # 45 float32 products


def test_binary_conv_refuses_unknown_scales_and_other_channels():
    with pytest.raises(ValueError, match="scale must be one of .*, got 'network'"):
        nn.BinaryConv(3, 4, 3, scale="network", rngs=RNGS)
    conv, x = nn.BinaryConv(3, 4, 3, rngs=RNGS), jnp.zeros((1, 3, 5, 5), jnp.float32)
    with pytest.raises(ValueError, match=r"BinaryConv expects \[N, H, W, 3\], got shape \(1, 3, 5, 5\)"):
        conv(x)


@pytest.mark.parametrize("name, bits", [("pact", 2), ("pact", 8), ("power_of_two", 4)])
def test_acc_max_is_reached_and_never_passed(name, bits):
    act, conv = nn.activation(name, bits), nn.BinaryConv(17, 3, 3, rngs=RNGS)
    # Kernels of magnitude 1, and so of the scale 1.
    conv.kernel[...] = jnp.sign(conv.kernel[...]).at[..., 0].set(1.0).at[..., 1].set(-1.0)
    levels = act(jnp.full((1, 5, 5, 17), 1e9, jnp.float32))
    acc = np.asarray(conv(nn.Levels(levels.value / act.step, jnp.float32(1), act.max_level)))
    acc_max = conv.acc_max(act.max_level)
    assert acc[..., 0].max() == acc_max == act.max_level * 9 * 17
    assert acc[..., 1].min() == -acc_max
    assert np.abs(acc).max() == acc_max


@pytest.mark.parametrize("in_channels", [1, 3])
def test_stem_sums_are_exact_integers_below_2_to_the_24(in_channels):
    bits = max_stem_weight_bits("cifar", in_channels)
    stem = nn.StemConv(in_channels, 5, 3, weight_bits=bits, dtype=jnp.float32, rngs=RNGS)
    stem.kernel[...] = stem.kernel[...].at[..., 0].set(0.7).at[..., 1].set(0.0)
    x = pixels((2, 7, 5, in_channels))
    x[0] = 510
    q, factor = stem.integer_kernel()
    kernel = np.asarray(stem.kernel[...], np.float64)
    np.testing.assert_array_equal(q, np.round(q))
    np.testing.assert_array_equal(np.abs(q).max((0, 1, 2)), np.array([1, 0, 1, 1, 1]) * (2 ** (bits - 1) - 1))
    assert np.all(np.abs(q * factor - kernel) <= factor * 0.5001)  # half a unit, in float32
    acc = integer_conv(x, np.asarray(q))
    np.testing.assert_array_equal(stem(jnp.float32(x / 128)), np.float32(acc) * (factor / 128))
    assert np.abs(acc).max() == stem.acc_max() < 2**24


@pytest.mark.parametrize("shape, bits", [((3, 3), 11), ((1, 3), 11), ((4, 3), 10), ((3, 7), 8)])
def test_a_stem_is_integer_by_default_with_11_bits_or_as_many_as_are_exact(shape, bits):
    channels, kernel_size = shape
    stem = nn.StemConv(channels, 5, kernel_size, rngs=RNGS)
    assert stem.weight_bits == bits and stem.acc_max() < 2**24
    assert bits == 11 or 510 * kernel_size**2 * channels * (2**bits - 1) >= 2**24
    assert nn.StemConv(channels, 5, kernel_size, weight_bits=None, rngs=RNGS).weight_bits is None


@pytest.mark.parametrize("channels, options", [(3, {"weight_bits": 1}), (20_000, {})])
def test_a_stem_without_room_for_two_bits_is_refused(channels, options):
    with pytest.raises(
        ValueError, match=r"StemConv needs 2 or more weight_bits, got [01] for a kernel \(3, 3\)"
    ):
        nn.StemConv(channels, 5, 3, rngs=RNGS, **options)


def test_layers_are_built_as_flax_builds_its_own():
    classifier, norm = nn.Classifier(64, 10, rngs=RNGS), nn.BatchNorm(16, rngs=RNGS)
    assert (classifier.fraction_bits, classifier(jnp.zeros((2, 64))).shape) == (8, (2, 10))
    assert (norm.momentum, norm.epsilon) == (0.9, 1e-5)
    assert nn.BatchNorm(16, momentum=0.5, epsilon=1e-3, rngs=RNGS).momentum == 0.5


def test_stem_gradients_are_those_of_the_float_convolution():
    stem = nn.StemConv(3, 5, 3, weight_bits=11, dtype=jnp.float32, rngs=RNGS)
    twin = nn.FloatConv(3, 5, 3, rngs=RNGS)
    q, factor = stem.integer_kernel()
    twin.kernel[...] = q * factor  # the rounded kernel, so that the input's gradients agree
    x = jnp.float32(pixels((2, 5, 6, 3)) / 128)
    g = jnp.float32(np.random.default_rng(1).normal(size=(2, 5, 6, 5)))

    def loss(conv, x):
        return jnp.sum(conv(x) * g)

    (dstem, dx), (dtwin, dx_twin) = (nnx.grad(loss, argnums=(0, 1))(conv, x) for conv in (stem, twin))
    np.testing.assert_allclose(
        dstem["kernel"][...], dtwin["kernel"][...], rtol=1e-4, atol=1e-4
    )  # float32 sums
    np.testing.assert_allclose(dx, dx_twin, rtol=1e-4, atol=1e-5)


def test_binary_conv_refuses_single_images_and_other_ranks_of_kernels():
    conv = nn.BinaryConv(3, 2, (3, 3), rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match=r"expects \[N, H, W, 3\], got shape \(5, 5, 3\)"):
        conv(jnp.ones((5, 5, 3)))
    for changed in ({"kernel_size": (3,)}, {"kernel_size": 3, "strides": (1, 1, 1)}):
        with pytest.raises(ValueError, match="kernel_size and strides must be two numbers"):
            nn.BinaryConv(3, 2, **changed, rngs=nnx.Rngs(0))
