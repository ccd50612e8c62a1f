import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.quantize import activations, registry
from qresnet_jax.quantize.activations import MIN_CLIPPING_LEVEL

QUANTIZERS = sorted(registry.QUANTIZERS)


@pytest.mark.parametrize("name", QUANTIZERS)
def test_quantizer_modules_give_multiples_of_their_step(name):
    for bits in (1, 2, 3):
        act = nn.activation(name, bits)
        if hasattr(act, "alpha"):
            assert type(act.alpha) is nn.ClippingLevel
            assert act.alpha[...] == 2**bits - 1  # the initial clipping level is n
            act.alpha[...] = jnp.float32(1.7)
        x = jnp.linspace(-1, 2**bits + 1, 400, dtype=jnp.float32)
        q = np.asarray(act(x), np.float64) / float(act.step)
        np.testing.assert_allclose(q, np.round(q), rtol=1e-6)  # the step is a float32
        assert len(np.unique(np.round(q))) == 2**bits
        assert np.round(q).max() == act.max_level
        assert np.asarray(act.step).dtype == np.float32


@pytest.mark.parametrize("name", ["pact", "lsq", "power_of_two"])
@pytest.mark.parametrize("alpha", [0.0, -3.0, 1e-20])
def test_a_clipping_level_is_guarded_and_can_return(name, alpha):
    act = nn.activation(name, 2)
    act.alpha[...] = jnp.float32(alpha)
    x = jnp.float32([[-1.0, 0.0, MIN_CLIPPING_LEVEL / 10, 5.0]])
    np.testing.assert_allclose(act(x), [[0, 0, 0, MIN_CLIPPING_LEVEL]], rtol=1e-6)  # float32 of the minimum
    np.testing.assert_allclose(act.step * act.max_level, MIN_CLIPPING_LEVEL, rtol=1e-6)
    gradient = nnx.grad(lambda act: jnp.sum(act(x)), argnums=nnx.DiffState(0, nn.ClippingLevel))(act)
    assert gradient["alpha"][...] > 0


def test_the_sigmoids_temperature_is_no_parameter():
    act = nn.activation("sigmoid", 2)
    assert type(act.temperature) is nn.Temperature
    assert not jax.tree.leaves(nnx.state(act, nnx.Param))

    def gradient():
        return jax.grad(lambda x: act(x).value)(jnp.float32(0.5))

    soft = gradient()
    act.temperature[...] = jnp.float32(8)
    assert gradient() > 3 * soft  # on an edge the slope is a quarter of the temperature


def test_float_activations_are_a_relu():
    for act in (nn.activation("none", 2), nn.activation("pact", 32)):
        np.testing.assert_array_equal(act(jnp.float32([-0.3, 0, 1e9])), np.float32([0, 0, 1e9]))
        assert (act.step, act.max_level) == (None, None)


@pytest.mark.parametrize("bits", [0, 9])
def test_impossible_bits_of_a_module_or_function_are_refused(bits):
    with pytest.raises(ValueError, match=f"PACT has 1 to 8 bits, got {bits}"):
        nn.PACT(bits)
    with pytest.raises(ValueError, match=f"an activation quantizer has 1 to 8 bits, got {bits}"):
        activations.pact(jnp.ones(3), jnp.float32(1), bits)


@pytest.mark.parametrize("bits", [0, 9, -1])
def test_impossible_bits_are_refused(bits):
    for name in QUANTIZERS:
        most = 4 if name == "power_of_two" else 8
        message = f"model.act_bits must be 1 to {most} with {name} activations, or 32 for float; got {bits}"
        with pytest.raises(ValueError, match=message):
            nn.activation(name, bits)


def test_impossible_activations_are_refused():
    with pytest.raises(ValueError, match="act_bits must be 1 to 4 with power_of_two activations, .* got 5"):
        nn.activation("power_of_two", 5)
    with pytest.raises(ValueError, match="PowerOfTwo has 1 to 4 bits, got 5"):
        nn.PowerOfTwo(5)
    with pytest.raises(
        ValueError, match="model.activation must be one of pact, fixed, .*, none; got 'relu6'"
    ):
        nn.activation("relu6", 2)
