import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from tests.nn.layer_cases import RNGS, batch_norm, pixels

UNIT = 2.0**-8


def sums_case(kind, scale="layer"):
    """`(conv, x)`: the last convolution of a block and its input, or a stem."""
    if kind == "stem":
        conv = nn.StemConv(3, 5, 3, weight_bits=11, dtype=jnp.float32, rngs=RNGS)
        return conv, jnp.float32(pixels((2, 5, 4, 3)) / 128)
    conv, act = nn.BinaryConv(17, 5, 3, 2, scale=scale, rngs=RNGS), nn.activation(kind, 2)
    if kind == "pact":
        act.alpha[...] = jnp.float32(1.9)
    return conv, act(jnp.float32(np.random.default_rng(5).normal(1, 1.5, (2, 5, 4, 17))))


def stream(integers):
    return nn.Stream(jnp.float32(np.array(integers) * UNIT), 8)


@pytest.mark.parametrize("kind", ["stem", "pact"])
def test_to_stream_has_the_gradients_of_the_float_function(kind):
    conv, x = sums_case(kind)
    norm = batch_norm(5)
    g = jnp.float32(np.random.default_rng(6).normal(size=conv(x).shape))

    def on_grid(conv, norm, x):
        return jnp.sum(nn.to_stream(norm(conv(x)), 8).value * g)

    def floats(conv, norm, x):
        return jnp.sum(norm(conv(x)).value * g)

    got, expected = (nnx.grad(f, argnums=(0, 1, 2))(conv, norm, x) for f in (on_grid, floats))
    assert len(jax.tree.leaves(got)) >= 4
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "kind, scale", [("stem", "layer"), ("pact", "layer"), ("pact", "channel"), ("power_of_two", "layer")]
)
def test_to_stream_rounds_the_normalised_sums(kind, scale, training):
    conv, x = sums_case(kind, scale)
    norm = batch_norm(5, training)
    floats = nnx.clone(norm)(conv(x))
    rounded = np.asarray(nn.to_stream(nnx.clone(norm)(conv(x)), 8))
    np.testing.assert_array_equal(rounded * 256, np.round(rounded * 256))
    assert np.abs(rounded - np.clip(floats, -128, 127.996)).max() <= 0.5001 / 256  # half a unit, and float32
    assert nn.to_stream(floats, None) is floats.value


def test_to_stream_rounds_sums_without_a_batch_norm():
    conv, x = sums_case("pact")
    np.testing.assert_array_equal(nn.to_stream(conv(x), 8), np.floor(np.asarray(conv(x)) * 256 + 0.5) / 256)


def test_streams_are_added_with_saturation():
    a, b = stream([1, 32767, -32768]), stream([2, 5, -1])
    for total in (a + b, nn.add(a, b)):
        assert isinstance(total, nn.Stream) and total.fraction_bits == 8
        np.testing.assert_array_equal(np.asarray(total) / UNIT, [3, 32767, -32768])


def test_sums_are_rounded_to_the_grid_of_what_they_are_added_to():
    sums = nn.Sums(jnp.float32([0.26, -0.26]), 7)
    for total in (sums + nn.Stream(jnp.float32([1, 1]), 2), nn.Stream(jnp.float32([1, 1]), 2) + sums):
        assert total.fraction_bits == 2
        np.testing.assert_array_equal(total, [1.25, 0.75])
    assert (sums + sums).fraction_bits == 8


def test_streams_with_other_grids_are_not_added():
    with pytest.raises(ValueError, match=r"cannot add streams with \[4, 8\] fraction bits"):
        stream([1]) + nn.Stream(jnp.float32([1]), 4)


def test_arrays_stay_arrays():
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, 4, 4, 3)))
    np.testing.assert_array_equal(nn.relu(x), np.maximum(x, 0))
    np.testing.assert_array_equal(nn.add(x, x), 2 * x)
    np.testing.assert_allclose(nn.global_mean(x), np.float64(x).mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_the_mean_of_a_stream_is_rounded_half_up_to_its_grid():
    integers = np.random.default_rng(1).integers(-500, 500, (3, 2, 3, 4))
    mean = nn.global_mean(stream(integers))
    assert isinstance(mean, nn.Stream)
    np.testing.assert_array_equal(np.asarray(mean) / UNIT, np.floor(integers.mean((1, 2)) + 0.5))


def test_max_pool_ignores_its_border():
    integers = -np.arange(1, 37).reshape(1, 6, 6, 1)
    pooled = nn.max_pool(stream(integers), (3, 3), (2, 2), ((1, 1), (1, 1)))
    want = [
        [integers[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2, 0].max() for j in (0, 2, 4)]
        for i in (0, 2, 4)
    ]
    np.testing.assert_array_equal(np.asarray(pooled)[0, :, :, 0] / UNIT, want)


def test_carriers_pass_through_transformations_and_are_arrays_to_jax():
    levels = nn.PACT(2)(jnp.float32([[0.2, 1.4, 9.0]]))
    doubled = jax.jit(lambda x: jax.tree.map(lambda a: 2 * a, x))(levels)
    assert isinstance(doubled, nn.Levels) and doubled.max_level == 3
    assert (levels.shape, levels.ndim, levels.dtype) == ((1, 3), 2, jnp.float32)
    np.testing.assert_array_equal(jnp.add(levels, 1), [[1, 2, 4]])
    np.testing.assert_array_equal(np.asarray(levels), [[0, 1, 3]])
    np.testing.assert_array_equal(2 * levels - levels[:, :1], [[0, 2, 6]])
    assert levels.mean() == 4 / 3 and (levels > 0).tolist() == [[False, True, True]]


def test_sums_know_their_bound():
    conv, x = sums_case("pact")
    assert conv(x).bound == 3 * 9 * 17
    assert conv(x.value).shape == conv(x).shape and not isinstance(conv(x.value), nn.Sums)
