"""Dropout: shares, kinds, modes."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn as qnn


def test_a_share_of_the_activations_becomes_0_and_the_mean_stays():
    x = np.asarray(qnn.Dropout(0.25, rngs=nnx.Rngs(0))(jnp.ones((100, 200))))
    assert abs(np.mean(x == 0) - 0.25) < 0.01 and abs(x.mean() - 1) < 0.02
    np.testing.assert_allclose(np.unique(x), [0, 4 / 3], rtol=1e-6)


def test_each_call_and_each_layer_draws_anew_and_a_draw_can_be_repeated():
    rngs = nnx.Rngs(0)
    first, second = qnn.Dropout(0.5, rngs=rngs), qnn.Dropout(0.5, rngs=rngs)
    x = jnp.ones(64)
    draws = [np.asarray(layer(x)) for layer in (first, first, second)]
    assert len({draw.tobytes() for draw in draws}) == 3
    first.draw[...] = jnp.float32(0)
    np.testing.assert_array_equal(first(x), draws[0])


def test_levels_stay_levels():
    x = qnn.Levels(jnp.float32([0, 0.5, 1, 1.5] * 50), jnp.float32(0.5), 3)
    y = qnn.Dropout(0.5, rngs=nnx.Rngs(0))(x)
    assert isinstance(y, qnn.Levels) and y.max_level == 3 and float(y.step) == 1
    assert set((np.asarray(y.value) / float(y.step)).tolist()) == {0.0, 1.0, 2.0, 3.0}


def test_a_stream_stays_on_its_grid():
    y = qnn.Dropout(0.3, rngs=nnx.Rngs(0))(qnn.to_stream(jnp.linspace(-3, 3, 97), 4))
    assert isinstance(y, qnn.Stream) and np.all(np.asarray(y.value) * 16 % 1 == 0)


@pytest.mark.parametrize("set_mode", [lambda m: m.eval(), lambda m: m.set_view(deterministic=True)])
def test_nothing_is_dropped_in_evaluation_mode(set_mode):
    layer = qnn.Dropout(0.9, rngs=nnx.Rngs(0))
    set_mode(layer)
    x = jnp.ones(10)
    assert layer(x) is x and float(layer.draw[...]) == 0
    assert nnx.view(qnn.Dropout(0.9, rngs=nnx.Rngs(0)), deterministic=True)(x) is x


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5])
def test_impossible_rates_are_refused(rate):
    with pytest.raises(ValueError, match="the rate of Dropout must be from 0 to less than 1, got"):
        qnn.Dropout(rate, rngs=nnx.Rngs(0))
