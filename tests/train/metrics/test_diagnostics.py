"""Diagnostics against counts in NumPy, over a few updates of a small network."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from qresnet_jax.config import default_config
from qresnet_jax.models.resnet import create_model
from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel
from qresnet_jax.quantize.hysteresis import HysteresisState
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.metrics import diagnostics
from qresnet_jax.train.network import Network

KERNEL = "stages.1.0.project"


def small(**model):
    config = default_config()
    config.model.depth, config.model.in_channels = 8, 1
    config.model.update(model)
    config.optim.learning_rate, config.optim.schedule = 0.2, "constant"
    config.optim.hysteresis.threshold = 0.3
    return config, create_model(config.model, rngs=nnx.Rngs(0))


@pytest.fixture(scope="module")
def walk():
    return four_updates("layer")


@pytest.fixture(scope="module")
def walk_per_channel():
    return four_updates("channel")


def four_updates(scale):
    """Four updates by random gradients: the gradients, and the state before and after each."""
    config, model = small(weight_scale=scale)
    params = nnx.state(model, nnx.Param)
    tx, rng = optim.optimizer(config.optim, params, 4, 1), np.random.default_rng(0)
    states, gradients = [tx.init(params)], []

    @jax.jit
    def update(grads, state, params):
        updates, state = tx.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(4):
        grads = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params)
        params, state = update(grads, states[-1], params)
        gradients.append(grads)
        states.append(state)
    return gradients, states


def of(state, field):
    """One kernel's array of a field of the hysteresis state."""
    (found,) = [
        s
        for s in jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, HysteresisState))
        if isinstance(s, HysteresisState)
    ]
    return np.asarray(getattr(found, field).stages[1][0].project.kernel[...])


def test_flips_are_the_signs_that_changed_in_the_step(walk):
    gradients, states = walk
    counts = []
    for grads, before, after in zip(gradients, states, states[1:], strict=False):
        values = diagnostics.named(diagnostics.step_diagnostics(grads, after), grads)
        share = np.mean(of(before, "sign") != of(after, "sign"))
        counts.append(share)
        np.testing.assert_allclose(values[f"flips/{KERNEL}"], share, rtol=1e-6)  # a float32 quotient
        norm = np.linalg.norm(np.asarray(grads.stages[1][0].project.kernel[...], np.float64))
        np.testing.assert_allclose(values[f"gradient_norm/{KERNEL}"], norm, rtol=1e-5)  # a float32 sum
    assert max(counts) > 0


@pytest.mark.parametrize("relative", [True, False])
def test_weight_diagnostics_are_what_numpy_counts(walk, relative):
    _, states = walk
    values = diagnostics.weight_diagnostics(states[-1], 0.3, relative)
    latent, sign = of(states[-1], "latent").astype(np.float64), of(states[-1], "sign")
    signs = np.stack([of(s, "sign") for s in states])
    half_width = 0.3 * np.abs(latent).mean() if relative else 0.3
    want = {
        "held_back": np.mean(np.where(latent >= 0, 1, -1) != sign),
        "dead_band": np.mean(np.abs(latent) < half_width),
        "never_flipped": np.mean((signs == signs[0]).all(axis=0)),
        "latent_norm": np.linalg.norm(latent),
    }
    for name, value in want.items():
        np.testing.assert_allclose(values[f"{name}/{KERNEL}"], value, rtol=1e-5, err_msg=name)  # float32 sums
    assert want["held_back"] > 0 and 0 < want["never_flipped"] < 1


@pytest.mark.slow
def test_dead_band_follows_the_scale_per_channel(walk_per_channel):
    _, states = walk_per_channel
    latent = of(states[-1], "latent").astype(np.float64)
    values = diagnostics.weight_diagnostics(states[-1], 0.3, True)
    want = np.mean(np.abs(latent) < 0.3 * np.abs(latent).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(values[f"dead_band/{KERNEL}"], want, rtol=1e-5)
    assert want != np.mean(np.abs(latent) < 0.3 * np.abs(latent).mean())


@pytest.mark.parametrize("scale", ["layer", "channel"])
def test_the_walk_records_the_same_weights_after_each_step(walk, walk_per_channel, scale):
    gradients, states = walk if scale == "layer" else walk_per_channel
    record = diagnostics.start_walk(gradients[0])
    assert {k: v.dtype.name for k, v in record.items()} == {
        "latent": "float32",
        "sign": "int8",
        "scale": "float32",
    }
    for step, state in enumerate(states[1:]):
        record = diagnostics.extend_walk(record, jnp.int32(step), state)
    layer = diagnostics.walked_layer(gradients[0])
    stage, block, kind, *index = layer.split(".")[1:]

    def kernel(field, state):
        values = optax.tree.get(state, field).stages[int(stage)][int(block)][kind]
        return np.asarray((values[int(index[0])] if index else values).kernel[...])

    latents = np.stack([kernel("latent", s) for s in states[1:]])
    picked = np.linspace(0, latents[0].size - 1, diagnostics.WALK_WEIGHTS).astype(int)
    np.testing.assert_array_equal(record["latent"][:4], latents.reshape(4, -1)[:, picked])
    signs = np.stack([kernel("sign", s) for s in states[1:]])
    np.testing.assert_array_equal(record["sign"][:4], signs.reshape(4, -1)[:, picked])
    axes = (1, 2, 3, 4) if scale == "layer" else (1, 2, 3)
    scales = np.abs(latents.astype(np.float64)).mean(axes, keepdims=True) * np.ones_like(latents)
    np.testing.assert_allclose(record["scale"][:4], scales.reshape(4, -1)[:, picked], rtol=1e-6)
    assert not np.any(record["sign"][4:]) and not np.any(record["latent"][4:])


def test_the_walk_ends_where_its_record_is_full(walk):
    gradients, states = walk
    record = diagnostics.start_walk(gradients[0])
    after = diagnostics.extend_walk(record, jnp.int32(diagnostics.WALK_STEPS), states[1])
    assert not np.any(after["sign"])


def test_weights_are_held_back_only_inside_the_dead_band(walk):
    _, states = walk
    values = diagnostics.weight_diagnostics(states[-1], 0.3, True)
    layers = [name.removeprefix("held_back/") for name in values if name.startswith("held_back/")]
    assert len(layers) == 8  # six 3x3 kernels and two projections
    assert all(values[f"held_back/{name}"] <= values[f"dead_band/{name}"] for name in layers)


@pytest.mark.parametrize("activation, levels", [("pact", [0, 1, 2, 3]), ("power_of_two", [0, 1, 2, 4])])
def test_activation_diagnostics_are_what_numpy_counts(activation, levels):
    _, model = small(activation=activation)
    for i, alpha in enumerate(
        jax.tree.leaves(nnx.state(model, ClippingLevel), is_leaf=lambda v: isinstance(v, nnx.Variable))
    ):
        alpha[...] = 1.5 + i / 10
    model.eval()
    images = jnp.asarray(np.random.default_rng(0).integers(-128, 128, (4, 8, 8, 1)) / 128, jnp.float32)
    block = model.stages[0][0]
    stream = jax.nn.relu(model.stem_norm(model.stem(images)))
    seen = np.floor(np.asarray(stream, np.float64) * 256 + 0.5) / 256  # what reaches the first quantizer
    alpha = float(block.acts[0].alpha[...])
    q = np.round(np.asarray(block.acts[0](jnp.float32(seen))) / float(block.acts[0].step))

    values = diagnostics.activation_diagnostics(model, images)
    first = "stages.0.0.acts.0"
    assert values[f"alpha/{first}"] == np.float32(alpha)
    np.testing.assert_allclose(values[f"saturation/{first}"], np.mean(seen >= alpha), atol=1e-6)
    for level in range(max(levels) + 1):
        np.testing.assert_allclose(values[f"occupancy/{first}/{level}"], np.mean(q == level), atol=1e-6)
        assert (values[f"occupancy/{first}/{level}"] > 0) <= (level in levels)


def test_saturation_of_the_stream_is_counted_at_each_blocks_output():
    _, model = small()
    model.eval()
    norm = model.stages[1][0].norms[1]
    norm.bias[...] = jnp.where(jnp.arange(norm.bias[...].size) < 8, 127.996, 0.0)  # a quarter of the channels
    values = diagnostics.activation_diagnostics(model, jnp.zeros((2, 8, 8, 1)))
    assert 0.2 < values["stream_saturation/stages.1.0"] < 0.3
    assert values["stream_saturation/stages.0.0"] == 0


@pytest.mark.slow
def test_occupancies_of_a_layer_sum_to_one():
    _, model = small(act_bits=(1, 2, 4))
    values = diagnostics.activation_diagnostics(model, jax.random.normal(jax.random.key(0), (2, 8, 8, 1)))
    for stage, bits in enumerate((1, 2, 4)):
        shares = [v for name, v in values.items() if name.startswith(f"occupancy/stages.{stage}.0.acts.1/")]
        assert len(shares) == 2**bits
        np.testing.assert_allclose(sum(shares), 1, rtol=1e-6)  # float32 shares


@pytest.mark.slow
def test_many_levels_are_not_listed():
    _, model = small(act_bits=(8, 2, 2))
    values = diagnostics.activation_diagnostics(model, jnp.zeros((1, 8, 8, 1)))
    assert "saturation/stages.0.0.acts.0" in values
    assert not [name for name in values if name.startswith("occupancy/stages.0.")]


def test_a_float_network_has_nothing_to_diagnose():
    config, model = small(weight_bits=32, activation="none")
    model.eval()
    graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
    assert not jax.tree.leaves(nnx.state(params, BinaryKernel))
    opt_state = optim.optimizer(config.optim, params, 4, 1).init(params)
    assert diagnostics.step_diagnostics(params, opt_state) == {}
    diagnose = diagnostics.make_diagnose(Network(graphdef), 0.0, True)
    assert diagnose(params, model_state, opt_state, jnp.zeros((1, 8, 8, 1))) == {}
