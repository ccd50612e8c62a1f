"""What validation and test measure: the integer network, against the NumPy engine and Python's own sums."""

import jax
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import create_model, default_config
from qresnet_jax.data import Split
from qresnet_jax.errors import ExportError
from qresnet_jax.ship import reference
from qresnet_jax.ship.fold import fold
from qresnet_jax.train.evaluator import Evaluator, measure
from qresnet_jax.train.network import Network
from qresnet_jax.train.parallel import device_mesh, replicate

MEAN = np.array([101.5])


def network(seed=0, **changes):
    config = default_config().model
    config.depth, config.in_channels = 8, 1
    config.update(changes)
    return create_model(config, rngs=nnx.Rngs(seed))


def split_of(size, seed=0):
    rng = np.random.default_rng(seed)
    return Split(rng.integers(0, 256, (size, 8, 8, 1), np.uint8), rng.integers(0, 10, size, np.int32))


def parts(model):
    graphdef, params, rest = nnx.split(nnx.view(model, use_running_average=True), nnx.Param, ...)
    return graphdef, params, rest


def test_the_accuracy_and_the_loss_are_those_of_the_integer_network():
    mesh, split = device_mesh(jax.devices()[:2]), split_of(43)
    evaluator = Evaluator(Network(parts(network())[0]), MEAN, mesh)
    for seed in (0, 1):  # two networks in one evaluator
        model = network(seed)
        _, params, rest = parts(model)
        result = evaluator(*replicate((params, rest), mesh), split)
        integers = fold(model, mean=MEAN)
        logits = reference.logits(integers, split.images)
        assert result["accuracy"] == np.mean(logits.argmax(-1) == split.labels)
        real = logits.astype(np.longdouble) * integers.logit_scale
        losses = np.log(np.exp(real).sum(-1)) - real[np.arange(43), split.labels]
        assert result["loss"] == pytest.approx(float(losses.mean()), rel=1e-12)


def test_a_float_network_is_evaluated_in_float():
    model, mesh, split = (
        network(weight_bits=32, activation="none"),
        device_mesh(jax.devices()[:2]),
        split_of(43),
    )
    graphdef, params, rest = parts(model)
    result = Evaluator(Network(graphdef), MEAN, mesh)(*replicate((params, rest), mesh), split)
    model.eval()
    logits = np.asarray(model((split.images.astype(np.float32) - np.float32(101.5)) / 64), np.float64)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(43), split.labels]
    assert result["accuracy"] == np.mean(logits.argmax(-1) == split.labels)
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-5)  # float32 logits


def test_a_network_that_diverged_is_refused():
    model = network()
    model.stem_norm.bias[...] = model.stem_norm.bias[...].at[0].set(np.nan)
    mesh = device_mesh(jax.devices()[:1])
    graphdef, params, rest = parts(model)
    with pytest.raises(ExportError, match="stem_norm.*bias.*is not finite"):
        Evaluator(Network(graphdef), MEAN, mesh)(params, rest, split_of(3))


def test_losses_of_huge_logits_do_not_overflow_and_equal_ones_are_the_first_class():
    logits = np.array([[1e6, 0, -1e6], [7, 7, 7], [-1e6, 1e6, 1e6]])
    total, right = measure(logits, np.array([0, 0, 2]))
    assert total == pytest.approx(np.log(3) + np.log(2), rel=1e-12)
    assert right == 2
