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


def test_levels_and_sums_are_rounded_to_the_grid_where_a_stream_is_needed():
    levels = nn.Levels(
        jnp.float32(np.random.default_rng(0).integers(0, 4, (2, 4, 4, 3)) * 0.3), jnp.float32(0.3), 3
    )
    rounded = nn.to_stream(levels)
    for got, want in (
        (nn.global_mean(levels), nn.global_mean(rounded)),
        (nn.mean_pool(levels, 2), nn.mean_pool(rounded, 2)),
        (levels + rounded, rounded + rounded),
        (levels + levels, rounded + rounded),
        (nn.concat([levels, rounded]), nn.concat([rounded, rounded])),
        (nn.max_pool(nn.Sums(levels.value, 9), 2), nn.max_pool(rounded, 2)),
    ):
        assert isinstance(got, nn.Stream) and got.fraction_bits == 8
        np.testing.assert_array_equal(got.value, want.value)


def test_levels_with_an_array_are_an_array():
    levels = nn.PACT(2)(jnp.float32([0.2, 1.4, 9.0]))
    for total in (levels + 1, levels + jnp.ones(3)):
        assert not isinstance(total, nn.Levels)
        np.testing.assert_array_equal(total, [1, 2, 4])


def test_the_largest_levels_are_levels():
    q = np.random.default_rng(0).integers(0, 4, (2, 6, 5, 3))
    pooled = nn.max_pool(nn.Levels(jnp.float32(q), jnp.float32(1), 3), (3, 2), (2, 1), ((0, 1), (1, 0)))
    assert isinstance(pooled, nn.Levels) and pooled.max_level == 3
    padded = np.pad(q, ((0, 0), (0, 1), (1, 0), (0, 0)), constant_values=-1)
    want = [[padded[:, i : i + 3, j : j + 2].max((1, 2)) for j in range(5)] for i in (0, 2, 4)]
    np.testing.assert_array_equal(pooled.value, np.moveaxis(np.array(want), 2, 0))


def test_the_mean_of_windows_is_rounded_half_up_and_has_the_gradient_of_the_float_mean():
    integers = np.random.default_rng(1).integers(-500, 500, (2, 5, 6, 3))
    x = stream(integers)
    pooled = nn.mean_pool(x, (2, 3), (1, 2))
    want = [[integers[:, i : i + 2, j : j + 3].mean((1, 2)) for j in (0, 2)] for i in range(4)]
    np.testing.assert_array_equal(
        np.asarray(pooled) / UNIT, np.floor(np.moveaxis(np.array(want), 2, 0) + 0.5)
    )
    ones = jax.grad(lambda v: nn.mean_pool(nn.Stream(v, 8), (2, 3), (1, 2)).value.sum())(x.value)
    floats = jax.grad(lambda v: nn.mean_pool(v, (2, 3), (1, 2)).sum())(x.value)
    np.testing.assert_allclose(ones, floats)
    np.testing.assert_allclose(floats.sum(), pooled.value.size, rtol=1e-5)


def test_vectors_are_in_the_order_height_width_channel():
    x = nn.flatten(stream(np.arange(24).reshape(1, 2, 3, 4)))
    assert isinstance(x, nn.Stream)
    np.testing.assert_array_equal(np.asarray(x)[0] / UNIT, np.arange(24))


def test_channels_are_joined():
    a, b = stream(np.arange(4).reshape(1, 2, 2)), stream(np.arange(4, 6).reshape(1, 2, 1))
    joined = nn.concat([a, b, a])
    assert isinstance(joined, nn.Stream)
    np.testing.assert_array_equal(np.asarray(joined)[0] / UNIT, [[0, 1, 4, 0, 1], [2, 3, 5, 2, 3]])
    np.testing.assert_array_equal(nn.concat([a.value, b.value]), joined.value[..., :3])
    with pytest.raises(ValueError, match="concat needs two or more parts, got 1"):
        nn.concat([a])
    with pytest.raises(ValueError, match=r"cannot concatenate streams with \[4, 8\] fraction bits"):
        nn.concat([a, nn.Stream(b.value, 4)])


@pytest.mark.parametrize("pool", [nn.max_pool, nn.mean_pool])
@pytest.mark.parametrize("sizes", [(0,), ((2, 2, 2),), (2, 0)])
def test_pools_refuse_impossible_windows(pool, sizes):
    with pytest.raises(ValueError, match="must be two numbers above 0"):
        pool(jnp.ones((1, 4, 4, 2)), *sizes)


@pytest.mark.parametrize("pool", [nn.global_mean, lambda x: nn.max_pool(x, 2), lambda x: nn.mean_pool(x, 2)])
def test_pools_refuse_vectors(pool):
    with pytest.raises(ValueError, match=r"expects images \[N, H, W, C\], got shape \(2, 8\)"):
        pool(jnp.ones((2, 8)))
