import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.nn.stream import renormalize, to_stream
from qresnet_jax.quantize import fixed_point
from tests.nn.layer_cases import RNGS, batch_norm, integer_conv, pixels


def stream_case(kind, scale="layer"):
    """`(conv, act, x, integers of x, integer kernel, acc_max)` of the last convolution of a block, or of a stem."""
    rng = np.random.default_rng(5)
    if kind == "stem":
        conv = nn.StemConv(3, 5, 3, weight_bits=11, dtype=jnp.float32, rngs=RNGS)
        q = pixels((2, 5, 4, 3))
        return conv, None, jnp.float32(q / 128), q, np.asarray(conv.integer_kernel()[0]), 510 * 27 * 1023
    conv, act = nn.BinaryConv(17, 5, 3, 2, scale=scale, rngs=RNGS), nn.activation(kind, 2)
    if kind == "pact":
        act.alpha[...] = jnp.float32(1.9)
    x = act(jnp.float32(rng.normal(1, 1.5, (2, 5, 4, 17))))
    q = np.round(np.asarray(x, np.float64) / float(act.step))
    return conv, act, x, q, np.where(conv.kernel[...] >= 0, 1, -1), act.max_level * 9 * 17


@pytest.mark.parametrize("has_norm", [True, False])
@pytest.mark.parametrize(
    "kind, scale", [("stem", "layer"), ("pact", "layer"), ("pact", "channel"), ("power_of_two", "layer")]
)
def test_to_stream_in_evaluation_is_shift_of_product_and_sum(kind, scale, has_norm):
    conv, act, x, q, kernel, acc_max = stream_case(kind, scale)
    norm = batch_norm(5) if has_norm else None
    stream = np.asarray(to_stream(conv, norm, x, act, 8), np.float64) * 256

    _, factor = conv.accumulate(x, None if act is None else act.step)
    gamma, beta = (
        (np.asarray(v) for v in norm.affine())
        if has_norm
        else (np.ones(5, np.float32), np.zeros(5, np.float32))
    )
    constants = fixed_point.requantizer(
        jnp.asarray(gamma * np.asarray(factor)), jnp.asarray(beta), acc_max, 8
    )
    m, k, c = np.asarray(constants.multiplier, np.int64), np.asarray(constants.shift), constants.offset()
    acc = integer_conv(q, kernel, conv.strides[0])
    assert np.abs(acc).max() <= acc_max
    np.testing.assert_array_equal(stream, np.clip((acc * m + c) >> k, -(2**15), 2**15 - 1))
    real = (acc * np.asarray(factor, np.float64) * gamma + beta) * 256
    assert np.abs(stream - np.clip(real, -(2**15), 2**15 - 1)).max() <= 1  # the bound of test_fixed_point


@pytest.mark.parametrize("kind", ["stem", "pact"])
def test_to_stream_has_the_gradients_of_the_float_function(kind):
    conv, act, x, *_ = stream_case(kind)
    norm, step = batch_norm(5), None if act is None else act.step
    g = jnp.float32(np.random.default_rng(6).normal(size=conv(x, step).shape))

    def shipped(conv, norm, x):
        return jnp.sum(to_stream(conv, norm, x, act, 8) * g)

    def floats(conv, norm, x):
        return jnp.sum(norm(conv(x, step)) * g)

    got, expected = (nnx.grad(f, argnums=(0, 1, 2))(conv, norm, x) for f in (shipped, floats))
    assert len(jax.tree.leaves(got)) == 4
    jax.tree.map(np.testing.assert_array_equal, got, expected)


def test_to_stream_in_training_rounds_the_normalised_batch():
    conv, act, x, *_ = stream_case("pact")
    norm = batch_norm(5, training=True)
    floats = nnx.clone(norm)(conv(x, act.step))
    stream = to_stream(conv, norm, x, act, 8)
    np.testing.assert_array_equal(stream * 256, np.round(stream * 256))
    assert np.abs(stream - floats).max() <= 0.5001 / 256  # half a unit, and float32
    np.testing.assert_array_equal(to_stream(conv, norm, x, act, None), nnx.clone(norm)(conv(x, act.step)))


@pytest.mark.parametrize("training", [True, False])
def test_renormalize_stays_on_the_grid_and_near_the_float_function(training):
    norm = batch_norm(5, training)
    stream = jnp.float32(np.random.default_rng(7).integers(-3000, 3000, (2, 3, 5, 5)) / 256)
    floats = nnx.clone(norm)(stream)
    on_grid = renormalize(nnx.clone(norm), stream, 8)
    np.testing.assert_array_equal(on_grid * 256, np.round(on_grid * 256))
    assert (
        np.abs(on_grid - floats).max() <= (0.5001 if training else 1) / 256
    )  # half a unit, or test_fixed_point's bound
    np.testing.assert_array_equal(renormalize(nnx.clone(norm), stream, None), floats)
