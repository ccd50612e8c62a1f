from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from qresnet_jax.ops.batch_norm import normalize_batch

EPSILON = 1e-5


def case(shape, dtype=jnp.float32, seed=0):
    """`(x, gamma, beta, g)`: a batch whose channels differ in mean and deviation, and the cotangent of its result."""
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    x = rng.normal(rng.normal(size=channels), rng.uniform(0.5, 2, channels), shape)
    gamma, beta = rng.normal(size=(2, channels))
    gamma[0] = 0
    g = rng.normal(size=shape)
    return jnp.asarray(x, dtype), jnp.float32(gamma), jnp.float32(beta), jnp.float32(g)


def reference(x, gamma, beta, epsilon=EPSILON):
    """Batch norm of float64 arrays by its definition."""
    axes = tuple(range(x.ndim - 1))
    mean, variance = x.mean(axes), x.var(axes)
    return (x - mean) / np.sqrt(variance + epsilon) * gamma + beta, mean, variance


def doubles(*arrays):
    return tuple(np.asarray(a, np.float64) for a in arrays)


@pytest.mark.parametrize("shape", [(4, 5, 3, 7), (1, 8, 8, 1), (6, 2)])
def test_batches_are_normalised_by_their_own_statistics(shape):
    x, gamma, beta, _ = case(shape)
    for got, expected in zip(
        normalize_batch(x, gamma, beta, EPSILON, None), reference(*doubles(x, gamma, beta)), strict=True
    ):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def test_a_constant_channel_becomes_beta():
    x = jnp.full((3, 2, 2, 1), 1000.3, jnp.float32)
    y, _, variance = normalize_batch(x, jnp.ones(1), jnp.full(1, 0.25), EPSILON, None)
    assert variance >= 0
    assert np.isfinite(y).all()
    # The variance of float32 numbers near 1000 is known to 0.1.
    np.testing.assert_allclose(y, 0.25, atol=0.1)


@pytest.mark.parametrize("shape", [(3, 4, 5, 3), (4, 2)])
def test_gradients_are_those_of_finite_differences_in_float64(shape):
    x, gamma, beta, g = case(shape)
    _, pull = jax.vjp(lambda *args: normalize_batch(*args, EPSILON, None)[0], x, gamma, beta)
    arguments = doubles(x, gamma, beta)
    for number, got in enumerate(pull(g)):
        expected = np.zeros(got.shape)
        for i in np.ndindex(got.shape):
            ends = []
            for sign in (1, -1):
                moved = [a.copy() for a in arguments]
                moved[number][i] += sign * 1e-6
                ends.append(np.sum(reference(*moved)[0] * np.float64(g)))
            expected[i] = (ends[0] - ends[1]) / 2e-6
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=2e-4)


def test_no_gradient_flows_through_the_statistics():
    x, gamma, beta, _ = case((2, 3, 3, 4))
    gradients = jax.grad(
        lambda *args: sum(map(jnp.sum, normalize_batch(*args, EPSILON, None)[1:])), (0, 1, 2)
    )
    assert all((np.asarray(d) == 0).all() for d in gradients(x, gamma, beta))


def test_bfloat16_is_normalised_in_float32():
    x, gamma, beta, g = case((4, 5, 5, 3), jnp.bfloat16)
    (y, *_), pull = jax.vjp(lambda *args: normalize_batch(*args, EPSILON, None), x, gamma, beta)
    np.testing.assert_allclose(y, reference(*doubles(x, gamma, beta))[0], rtol=1e-4, atol=1e-5)
    dx, dgamma, dbeta = pull((g, jnp.zeros(3), jnp.zeros(3)))
    assert (dx.dtype, dgamma.dtype, dbeta.dtype) == (jnp.bfloat16, jnp.float32, jnp.float32)


@pytest.mark.parametrize("how", ["shard_map", pytest.param("vmap", marks=pytest.mark.slow)])
def test_shards_of_a_batch_are_normalised_like_the_whole(how):
    x, gamma, beta, g = case((4, 3, 5, 6))

    def gradients(axis, x, gamma, beta, g):
        (y, mean, variance), pull = jax.vjp(
            lambda *args: normalize_batch(*args, EPSILON, axis), x, gamma, beta
        )
        dx, *rest = pull((g, jnp.zeros(6), jnp.zeros(6)))
        rest = [d if axis is None else jax.lax.psum(d, axis) for d in rest]
        return y, dx, mean, variance, *rest

    whole = gradients(None, x, gamma, beta, g)
    if how == "vmap":
        halves = jax.vmap(partial(gradients, "shards"), (0, None, None, 0), axis_name="shards")(
            x.reshape(2, 2, 3, 5, 6), gamma, beta, g.reshape(2, 2, 3, 5, 6)
        )
        parts = [v.reshape(4, 3, 5, 6) for v in halves[:2]] + [v[0] for v in halves[2:]]
    else:
        split, everywhere = PartitionSpec("shards"), PartitionSpec()
        parts = jax.shard_map(
            partial(gradients, "shards"),
            mesh=Mesh(np.array(jax.devices()[:2]), ("shards",)),
            in_specs=(split, everywhere, everywhere, split),
            out_specs=(split, split, *[everywhere] * 4),
            check_vma=False,
        )(x, gamma, beta, g)
    for got, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)


def test_flax_computes_the_same():
    x, gamma, beta, g = case((4, 6, 6, 5))
    flax = nnx.BatchNorm(5, epsilon=EPSILON, rngs=nnx.Rngs(0))

    def theirs(x, gamma, beta):
        norm = nnx.clone(flax)
        norm.scale[...], norm.bias[...] = gamma, beta
        return norm(x)

    ours, pull = jax.vjp(lambda *args: normalize_batch(*args, EPSILON, None)[0], x, gamma, beta)
    other, other_pull = jax.vjp(theirs, x, gamma, beta)
    np.testing.assert_allclose(ours, other, rtol=1e-5, atol=1e-5)
    for got, expected in zip(pull(g), other_pull(g), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
