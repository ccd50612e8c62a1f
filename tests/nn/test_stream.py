import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.nn.stream import to_stream
from tests.nn.layer_cases import RNGS, batch_norm, pixels


def stream_case(kind, scale="layer"):
    """`(conv, act, x)`: the last convolution of a block with the quantizer before it and its input, or a stem."""
    if kind == "stem":
        conv = nn.StemConv(3, 5, 3, weight_bits=11, dtype=jnp.float32, rngs=RNGS)
        return conv, None, jnp.float32(pixels((2, 5, 4, 3)) / 128)
    conv, act = nn.BinaryConv(17, 5, 3, 2, scale=scale, rngs=RNGS), nn.activation(kind, 2)
    if kind == "pact":
        act.alpha[...] = jnp.float32(1.9)
    x = act(jnp.float32(np.random.default_rng(5).normal(1, 1.5, (2, 5, 4, 17))))
    return conv, act, x


@pytest.mark.parametrize("kind", ["stem", "pact"])
def test_to_stream_has_the_gradients_of_the_float_function(kind):
    conv, act, x = stream_case(kind)
    norm, step = batch_norm(5), None if act is None else act.step
    g = jnp.float32(np.random.default_rng(6).normal(size=conv(x, step).shape))

    def on_grid(conv, norm, x):
        return jnp.sum(to_stream(conv, norm, x, act, 8) * g)

    def floats(conv, norm, x):
        return jnp.sum(norm(conv(x, step)) * g)

    got, expected = (nnx.grad(f, argnums=(0, 1, 2))(conv, norm, x) for f in (on_grid, floats))
    assert len(jax.tree.leaves(got)) == 4
    jax.tree.map(np.testing.assert_array_equal, got, expected)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "kind, scale", [("stem", "layer"), ("pact", "layer"), ("pact", "channel"), ("power_of_two", "layer")]
)
def test_to_stream_rounds_the_normalised_sums(kind, scale, training):
    conv, act, x = stream_case(kind, scale)
    norm, step = batch_norm(5, training), None if act is None else act.step
    floats = nnx.clone(norm)(conv(x, step))
    stream = to_stream(conv, nnx.clone(norm), x, act, 8)
    np.testing.assert_array_equal(stream * 256, np.round(stream * 256))
    assert np.abs(stream - np.clip(floats, -128, 127.996)).max() <= 0.5001 / 256  # half a unit, and float32
    np.testing.assert_array_equal(to_stream(conv, norm, x, act, None), floats)


def test_to_stream_rounds_sums_without_a_batch_norm():
    conv, act, x = stream_case("pact")
    stream = to_stream(conv, None, x, act, 8)
    np.testing.assert_array_equal(stream, np.floor(conv(x, act.step) * 256 + 0.5) / 256)
