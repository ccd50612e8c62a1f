"""A new quantizer is one class and one line of the registry: it then trains, folds and ships as those that there are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import config as configs
from qresnet_jax import nn
from qresnet_jax.errors import ConfigError, ExportError
from qresnet_jax.quantize import registry
from qresnet_jax.quantize.straight_through import straight_through
from qresnet_jax.ship import costs, reference
from qresnet_jax.ship.fold import fold
from qresnet_jax.ship.jax.stablehlo import simulation
from qresnet_jax.ship.nodes import ThresholdsNode
from qresnet_jax.ship.onnx.qonnx import qonnx_model


class Squares(nn.activations.ClippedQuantizer):
    """Levels 0, 1, 4, 9, ...: the largest of them is the clipping level."""

    def __call__(self, x):
        v = jnp.clip(x, 0, self.clipping_level)
        q = jnp.square(jnp.round(jnp.sqrt(v / self.step)))
        return straight_through((q * self.step).astype(x.dtype), v)

    def level_index(self, x):
        alpha = float(self.clipping_level)
        return np.rint(np.sqrt(np.clip(x, 0, alpha) * (self.max_level / alpha))).astype(np.int64)


class Coarse(nn.Quantizer):
    """Evenly spaced levels with a step of 1/2."""

    step = jnp.float32(0.5)

    @property
    def clipping_level(self):
        return self.max_level * self.step

    def __call__(self, x):
        clipped = jnp.clip(x, 0, self.clipping_level)
        return straight_through((jnp.round(clipped / self.step) * self.step).astype(x.dtype), clipped)


@pytest.fixture(params=[Squares, Coarse])
def quantizer(request, monkeypatch):
    """One class and one line; they are removed again after the test."""
    lines = {
        Squares: registry.QuantizerInfo("Squares", lambda bits: [i * i for i in range(2**bits)], most_bits=6),
        Coarse: registry.QuantizerInfo("Coarse"),
    }
    monkeypatch.setattr(nn.activations, request.param.__name__, request.param, raising=False)
    monkeypatch.setitem(registry.QUANTIZERS, "new", lines[request.param])
    return request.param


def test_a_config_may_name_it(quantizer):
    config = configs.default_config()
    config.model.activation = "new"
    configs.validate(config)
    config.model.act_bits = (2, 7, 2)
    if quantizer is Squares:
        with pytest.raises(ConfigError, match="new activations have 1 to 6 bits"):
            configs.validate(config)
    else:
        configs.validate(config)
    config.model.activation = "newer"
    with pytest.raises(ConfigError, match="'newer'"):
        configs.validate(config)


def test_it_trains(quantizer, build_model):
    model = build_model("new")
    model.train()
    x = jnp.float32(np.random.default_rng(0).integers(-255, 256, (4, 6, 6, 3)) / 128)
    grads = nnx.jit(nnx.grad(lambda model: jnp.sum(jnp.square(model(x)))))(model)
    for gradient in jax.tree.leaves(grads):
        assert np.all(np.isfinite(gradient)) and np.any(gradient != 0)


def test_the_integer_network_agrees_with_the_simulation(quantizer, build_model, make_images):
    model = build_model("new", act_bits=(2, 3))
    network = fold(model, image_shape=(8, 8))
    images = make_images(64, (8, 8, 3))
    integers = reference.logits(network, images) * network.logit_scale
    simulated = np.asarray(jax.jit(simulation(model))(images))
    assert np.mean(integers.argmax(-1) == simulated.argmax(-1)) > 0.95
    assert np.abs(integers - simulated).mean() < 1e-2 * np.abs(simulated).max()
    levels = {
        Squares: ([0, 1, 4, 9], [0, 1, 4, 9, 16, 25, 36, 49]),
        Coarse: ([0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7]),
    }
    folded = [node.levels.tolist() for node in network.nodes if isinstance(node, ThresholdsNode)]
    assert folded == [levels[quantizer][0]] * 2 + [levels[quantizer][1]] * 2
    rows = costs.layer_table(model, (8, 8, 3), network)
    assert {row.act_bits for row in rows if row.is_binary} == {2, 3}


def test_qonnx_takes_it_if_its_levels_are_evenly_spaced(quantizer, build_model):
    model = build_model("new")
    if quantizer is Squares:
        with pytest.raises(ExportError, match="Squares activations, which have no QONNX form"):
            qonnx_model(model, image_shape=(8, 8))
    else:
        written = qonnx_model(model, image_shape=(8, 8))
        assert any(node.op_type == "Quant" for node in written.graph.node)


def test_qonnx_refuses_what_does_not_round_to_the_nearest_level(build_model):
    class Floor(nn.PACT):
        """Evenly spaced levels, each for what lies above it: a `Quant` would compute something else."""

        def level_index(self, x):
            return np.floor(np.clip(x, 0, float(self.clipping_level)) / float(self.step)).astype(np.int64)

    model = build_model("pact")
    model.stages[0][0].acts[1] = Floor(2)
    assert model.stages[0][0].acts[1].is_uniform
    with pytest.raises(ExportError, match="Floor activations, which have no QONNX form"):
        qonnx_model(model, image_shape=(8, 8))


def test_a_class_without_a_line_is_refused():
    class Unregistered(nn.Quantizer):
        pass

    with pytest.raises(TypeError, match="Unregistered is not registered: add a line for it"):
        Unregistered(2)


def test_a_class_that_derives_from_a_registered_one_is_of_its_kind():
    class Mine(nn.PowerOfTwo):
        pass

    assert list(Mine(2).levels) == [0, 1, 2, 4]
