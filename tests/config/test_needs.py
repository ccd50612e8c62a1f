"""What a field lacks: without it the training step is the same for all values of the field."""

import jax
import numpy as np
import pytest
from jax.interpreters import partial_eval

from qresnet_jax.config import default_config, flatten, needs, unmet_need, unused_fields
from qresnet_jax.system.config_files import load_config, shipped_configs
from tests.config.config_cases import changed
from tests.train import test_step

FLOAT = {"model.weight_bits": 32}
# For each field two values, settings without what it needs, and settings with it.
CASES = {
    "model.depth": ((8, 14), {"model.name": "mlp", "model.image_size": (8, 8)}, {}),
    "model.block": (("basic", "bireal"), {"model.name": "mobilenet"}, {}),
    "model.stem": (("cifar", "imagenet"), {"model.name": "mobilenet"}, {}),
    "model.image_size": (((8, 8), (9, 9)), {}, {"model.name": "mlp"}),
    "model.weight_scale": (("layer", "channel"), FLOAT, {}),
    "optim.latent_rate": ((1.0, 3.0), FLOAT, {}),
    "optim.muon.learning_rate": ((0.1, 0.2), {}, {"optim.name": "muon"}),
    "optim.muon.momentum": ((0.1, 0.2), {"optim.name": "adamw"}, {"optim.name": "muon"}),
    "optim.hysteresis.threshold": ((0.0, 0.1), FLOAT, {}),
    "optim.hysteresis.relative": ((True, False), {}, {"optim.hysteresis.threshold": 0.1}),
    "optim.distillation.weight": ((0.1, 0.2), {}, {"optim.distillation.teacher": "runs/a"}),
    "optim.distillation.temperature": ((1.0, 2.0), {}, {"optim.distillation.teacher": "runs/a"}),
    "optim.temperature.start": ((1.0, 2.0), {}, {"model.activation": "sigmoid"}),
    "optim.temperature.end": ((1.0, 2.0), {"model.activation": "lsq"}, {"model.activation": "sigmoid"}),
}


def test_every_need_is_a_case_here():
    assert CASES.keys() == needs._NEEDS.keys() < flatten(default_config()).keys()


@pytest.mark.parametrize("name", CASES)
def test_a_field_without_what_it_needs_is_no_part_of_the_step(name):
    values, without, _ = CASES[name]
    assert unmet_need(name, changed(**without)).startswith("config.")
    trainers = [test_step.Trainer(test_step.configuration(**{**without, name: value})) for value in values]
    if name == "optim.hysteresis.relative":  # 0 times the mean magnitude is computed, and is 0
        states = [jax.tree.leaves(trainer.advance(3)) for trainer in trainers]
        assert all(np.array_equal(a, b) for a, b in zip(*states, strict=True))
    else:
        traces = [trainer.trace().jaxpr.jaxpr for trainer in trainers]
        used = [partial_eval.dce_jaxpr(traced, [True] * len(traced.outvars))[0] for traced in traces]
        assert str(used[0]) == str(used[1])


@pytest.mark.parametrize("name", CASES)
def test_a_field_with_what_it_needs_lacks_nothing(name):
    assert unmet_need(name, changed(**CASES[name][2])) == ""


@pytest.mark.parametrize(
    "name", ["model.depth", "model.image_size", "optim.latent_rate", "optim.temperature.end"]
)
def test_of_a_network_of_ones_own_nothing_is_known(name):
    assert unmet_need(name, changed(**{"model.name": "net.py:build"}, **FLOAT)) == ""


def test_a_field_that_needs_nothing_lacks_nothing():
    assert unmet_need("optim.learning_rate", default_config()) == ""


def test_only_changed_fields_are_said_to_have_no_effect():
    assert unused_fields(changed(**{"optim.muon.momentum": 0.5, "optim.learning_rate": 0.5})) == {
        "optim.muon.momentum": "config.optim.name=muon"
    }


@pytest.mark.parametrize("name", shipped_configs())
def test_every_field_that_a_shipped_config_sets_has_an_effect(name):
    assert unused_fields(load_config(name)) == {}
