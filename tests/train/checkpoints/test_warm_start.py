"""Warm starts: what fits is taken over from another run by path and shape, and the report says what was not."""

import jax
import numpy as np
import pytest
from flax import nnx

from qresnet_jax.config import default_config
from qresnet_jax.errors import CheckpointError
from qresnet_jax.models.resnet import create_model
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints, to_json, tree_paths
from qresnet_jax.train.checkpoints.resume import warm_start
from qresnet_jax.train.parallel import device_mesh, replicate
from qresnet_jax.train.step import init_state


def configuration(**changes):
    config = default_config()
    config.model.depth, config.model.in_channels = 8, 1
    config.model.update(changes)
    return config


def description(**changes):
    return {"config": to_json(configuration(**changes).to_dict()), "mean": [0.5]}


META = description()


def network(seed, **changes):
    config = configuration(**changes)
    model = create_model(config.model, rngs=nnx.Rngs(seed))
    _, params, model_state = nnx.split(model, nnx.Param, ...)
    params, model_state = replicate((params, model_state), device_mesh(jax.devices()[:1]))
    return params, model_state, optim.optimizer(config.optim, params, 10, 10)


@pytest.fixture(scope="module")
def float_run(tmp_path_factory):
    """A float network's workdir with two checkpoints; the first is the best."""
    workdir = tmp_path_factory.mktemp("float") / "run"
    params, model_state, tx = network(1, weight_bits=32, activation="none")
    model_state = jax.tree.map(lambda x: x + 0.5, model_state)
    checkpoints = Checkpoints(workdir)
    meta = description(weight_bits=32, activation="none")
    checkpoints.save(5, init_state(params, model_state, tx), meta, 0.9)
    later = jax.tree.map(lambda x: x + 1, params)
    checkpoints.save(7, init_state(later, model_state, tx), meta, 0.8)
    checkpoints.close()
    return workdir, tree_paths(params), tree_paths(later), tree_paths(model_state)


@pytest.mark.parametrize(
    ("path", "step"), [(".", 5), ("checkpoints", 5), ("checkpoints/7", 7), ("checkpoints/5", 5)]
)
def test_a_binary_network_starts_from_the_best_float_weights_or_from_the_step_given(float_run, path, step):
    workdir, best, later, statistics = float_run
    params, model_state, _ = network(2)
    got, got_state, report = warm_start(workdir / path, params, model_state)
    source = best if step == 5 else later
    fresh = tree_paths(params)
    for name, x in tree_paths(got).items():
        np.testing.assert_array_equal(
            x, fresh[name] if name.endswith("alpha.value") else source[name], err_msg=name
        )
    for name, x in tree_paths(got_state).items():
        np.testing.assert_array_equal(x, statistics[name], err_msg=name)
    matched = len(source) + len(statistics)
    alphas = "stages.0.0.acts.0.alpha.value, stages.0.0.acts.1.alpha.value"
    assert (
        f"at step {step}: {matched} arrays matched; 6 are missing there and keep their initial values: {alphas}"
        in report
    )
    assert "another shape" not in report
    assert jax.tree.structure((got, got_state)) == jax.tree.structure((params, model_state))


def test_arrays_of_another_shape_are_initialised_and_named(float_run):
    workdir, best, _, _ = float_run
    params, model_state, _ = network(2, weight_bits=32, activation="none", num_classes=7)
    got, _, report = warm_start(str(workdir), params, model_state)
    assert "2 have another shape there and keep their initial values: " in report
    assert (
        "classifier.kernel.value (64, 10) -> (64, 7)" in report
        and "classifier.bias.value (10,) -> (7,)" in report
    )
    for name, x in tree_paths(got).items():
        fresh = name.startswith("classifier")
        np.testing.assert_array_equal(x, (tree_paths(params) if fresh else best)[name], err_msg=name)


def test_latent_weights_are_preferred_to_binary_ones(tmp_path):
    params, model_state, tx = network(1)
    state = init_state(params, model_state, tx)
    loop = state.opt_state[-1].inner_states["binary"].inner_state
    shifted = loop._replace(latent=jax.tree.map(lambda x: x + 1, loop.latent))
    opt_state = jax.tree.map(
        lambda s: shifted if s is loop else s, state.opt_state, is_leaf=lambda s: s is loop
    )
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, state._replace(opt_state=opt_state), META, None)
    checkpoints.close()
    fresh, fresh_state, _ = network(2)
    got, _, report = warm_start(str(tmp_path), fresh, fresh_state)
    for name, x in tree_paths(got).items():
        is_binary = name.startswith("stages") and name.endswith("kernel.value")
        np.testing.assert_array_equal(x, tree_paths(params)[name] + is_binary, err_msg=name)
    assert "missing" not in report and "another shape" not in report


def test_settings_of_the_network_that_differ_are_reported(float_run):
    params, model_state, _ = network(2)
    *_, report = warm_start(float_run[0], params, model_state, META)
    other = "config.model.activation=pact (was none), config.model.weight_bits=1 (was 32)"
    assert report.endswith(f"; the network has other settings: {other}")
    *_, report = warm_start(float_run[0], params, model_state, description(weight_bits=32, activation="none"))
    assert "other settings" not in report


def test_a_warm_start_from_nowhere_is_refused(tmp_path, float_run, monkeypatch):
    fresh, fresh_state, _ = network(2)
    with pytest.raises(CheckpointError, match="there is no checkpoint in .*nowhere"):
        warm_start(str(tmp_path / "nowhere"), fresh, fresh_state)
    closed, close = [], Checkpoints.close
    monkeypatch.setattr(Checkpoints, "close", lambda self: closed.append(self) or close(self))
    with pytest.raises(CheckpointError, match="checkpoints/6") as caught:
        warm_start(str(float_run[0] / "checkpoints" / "6"), fresh, fresh_state)
    assert len(closed) == 1
    assert "delete" not in str(caught.value), "there is nothing to delete"
