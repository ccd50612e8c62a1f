import jax.numpy as jnp
import numpy as np
from flax import nnx

from qresnet_jax import nn
from tests.nn.layer_cases import batch_norm


def test_batch_norm_is_biased_with_momentum_09_and_epsilon_1e_5():
    norm = batch_norm(5, training=True)
    x = np.random.default_rng(2).normal(1, 2, (3, 4, 5, 5)).astype(np.float32)
    x[..., 1] = 0.25  # no variance: only epsilon is left
    start = [np.asarray(v[...], np.float64) for v in (norm.mean, norm.var, norm.scale, norm.bias)]
    out = norm(jnp.asarray(x))
    mean, var = x.mean((0, 1, 2), dtype=np.float64), x.var((0, 1, 2), dtype=np.float64)
    expected = (x - mean) / np.sqrt(var + 1e-5) * start[2] + start[3]
    # float32 statistics of numbers around 2; E[x^2] - E[x]^2 loses digits where the variance is 0
    np.testing.assert_allclose(out, expected, atol=1e-4)
    np.testing.assert_allclose(norm.mean[...], 0.9 * start[0] + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(norm.var[...], 0.9 * start[1] + 0.1 * var, rtol=1e-5)
    assert {type(norm.scale), type(norm.bias)} == {nn.NormParam}


def test_batch_norm_in_evaluation_mode_uses_the_running_statistics():
    norm = batch_norm(5)
    mean, var, gamma, beta = (
        np.asarray(v[...], np.float64) for v in (norm.mean, norm.var, norm.scale, norm.bias)
    )
    x = np.random.default_rng(3).normal(size=(2, 3, 3, 5)).astype(np.float32)
    expected = (x - mean) / np.sqrt(var + 1e-5) * gamma + beta
    np.testing.assert_allclose(norm(jnp.asarray(x)), expected, atol=1e-5)  # float32 rsqrt and products


def test_a_shift_adds_to_each_channel():
    shift = nn.Shift(3, rngs=nnx.Rngs(0))
    shift.shift[...] = jnp.float32([0.5, -1, 2])
    x = jnp.float32(np.random.default_rng(0).normal(size=(2, 4, 4, 3)))
    np.testing.assert_array_equal(shift(x), x + jnp.float32([0.5, -1, 2]))
    of_sums, of_stream = shift(nn.Sums(x, 7)), shift(nn.to_stream(x))
    of_levels = shift(nn.Levels(x, jnp.float32(1), 3))
    assert [y.bound for y in (of_sums, of_stream, of_levels)] == [7, 2**15, 3]
    assert isinstance(shift.shift, nn.NormParam)  # no weight decay
