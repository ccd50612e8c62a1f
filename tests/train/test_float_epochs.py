"""The float epochs of a run are those of its float twin; then the weights and activations are quantized."""

import logging
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from qresnet_jax.errors import CheckpointError, ExportError
from qresnet_jax.models.resnet import create_model
from qresnet_jax.nn.variables import BinaryKernel
from qresnet_jax.pixels import normalize
from qresnet_jax.report import plots
from qresnet_jax.report.report import write_report
from qresnet_jax.report.runs import read_run
from qresnet_jax.train import loop, together
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints
from qresnet_jax.train.evaluator import evaluate_checkpoint, fold_run, restore_run
from qresnet_jax.train.float_epochs import FloatTwin
from qresnet_jax.train.metrics import records
from qresnet_jax.train.metrics.diagnostics import by_layer
from qresnet_jax.train.step import init_state
from tests.train.tiny_runs import FLOAT, configuration, lines, run, tiny_data, tiny_set, without_speed

CONSTANT = {"optim.schedule": "constant"}
LOSSES = ("train_loss", "eval_loss", "train_accuracy", "eval_accuracy")


@pytest.fixture(autouse=True, scope="module")
def only_tiny_data():
    with tiny_data():
        yield


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    """A run with 2 float epochs and 2 quantized ones."""
    workdir = tmp_path_factory.mktemp("staged")
    run(workdir, **CONSTANT, **{"optim.float_epochs": 2, "num_epochs": 4})
    return workdir


def test_the_float_epochs_are_those_of_the_float_twin(staged, tmp_path):
    run(tmp_path, **FLOAT, num_epochs=2)
    mine, twins = (
        [{name: line.get(name) for name in LOSSES} for line in lines(workdir) if line["step"] <= 6]
        for workdir in (staged, tmp_path)
    )
    assert mine == twins


def untested(workdir):
    tested = ("test_accuracy", "test_loss", "test_of_step")
    return [{k: v for k, v in line.items() if k not in tested} for line in without_speed(lines(workdir))]


def test_a_run_continues_over_the_switch_to_the_bit(staged, tmp_path):
    changes = {**CONSTANT, "optim.float_epochs": 2}
    run(tmp_path, **changes, num_epochs=2 + 1)
    run(tmp_path, **changes, num_epochs=4)
    assert untested(tmp_path) == untested(staged)


@pytest.mark.slow
def test_a_run_with_muon_continues_over_the_switch_to_the_bit(tmp_path):
    changes = {**CONSTANT, "optim.name": "muon", "optim.float_epochs": 1}
    run(tmp_path / "parts", **changes, num_epochs=1 + 1)
    run(tmp_path / "parts", **changes)
    run(tmp_path / "whole", **changes)
    assert untested(tmp_path / "parts") == untested(tmp_path / "whole")


def test_only_the_quantized_network_is_chosen_and_tested(staged):
    with Checkpoints(staged, read_only=True) as checkpoints:
        assert checkpoints.best_step > 6
        assert "6" not in map(str, checkpoints.steps)
    assert lines(staged)[-1]["test_of_step"] > 6


def test_the_metrics_say_which_epochs_were_in_float(staged):
    assert [line["step"] for line in lines(staged) if line.get(records.IN_FLOAT)] == [2, 3, 5, 6]
    record = read_run(staged)
    validation = {line["step"]: line["eval_accuracy"] for line in lines(staged) if "eval_accuracy" in line}
    assert record.best_validation == max(validation[9], validation[12])
    layers = len([name for name in lines(staged)[0] if name.startswith("flips/")])
    counted = sum(
        n * sum(value for name, value in line.items() if name.startswith("flips/"))
        for n, line in zip((2, 1, 2, 1), lines(staged)[4:], strict=True)
    )
    assert record.signs["flips"] == pytest.approx(counted / layers)


def test_pictures_show_where_the_float_epochs_end(staged):
    figure = plots.curves(lines(staged))
    assert all(
        [line.get_xdata()[0] for line in ax.lines if "quantized" in line.get_label()] == [6]
        for ax in figure.axes
    )
    assert plots.curves(lines(staged)[:4]).axes[0].lines[-1].get_label() == "validation"


def test_the_walk_through_the_hysteresis_loop_begins_with_the_quantized_network(staged):
    with Checkpoints(staged, read_only=True) as checkpoints:
        signs = checkpoints.arrays(checkpoints.latest_step)["walk.sign"]
    steps_in_quantized_epochs = 6
    assert (signs[:steps_in_quantized_epochs] != 0).all()
    assert (signs[steps_in_quantized_epochs:] == 0).all()


@pytest.mark.slow
def test_runs_trained_at_once_have_float_epochs_too(staged, tmp_path):
    config = configuration(**CONSTANT, **{"optim.float_epochs": 2, "num_epochs": 4})
    runs = [together.Run(config, tmp_path / "run", "run")]
    results = []
    together.train_together(runs, 1, lambda _, result: results.append(result), devices=jax.devices()[:1])
    assert results == [lines(staged)[-1] | {"images_per_second": results[0]["images_per_second"]}]


@pytest.mark.parametrize(
    "part", [{"model.weight_bits": 32}, pytest.param({"model.activation": "none"}, marks=pytest.mark.slow)]
)
def test_a_network_that_is_float_in_part_has_float_epochs_too(part, staged, tmp_path):
    run(tmp_path, **CONSTANT, **part, **{"optim.float_epochs": 2, "num_epochs": 3})
    in_float = [[line[name] for name in LOSSES if name in line] for line in lines(tmp_path)[:4]]
    assert in_float == [[line[name] for name in LOSSES if name in line] for line in lines(staged)[:4]]


# ---- A run that was stopped in its float epochs --------------------------------------------------------------


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """`(config, workdir)` of a run whose latest checkpoint is in the float epochs."""
    workdir = tmp_path_factory.mktemp("stopped")
    config = configuration(**CONSTANT, **{"optim.float_epochs": 2, "num_epochs": 4})

    def write(self, *args, _write=records.Metrics.write, **kwargs):
        _write(self, *args, **kwargs)
        if args[0] == 6 and "eval_loss" in args[1]:
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(records.Metrics, "write", write)
        loop.train_and_evaluate(config, workdir, devices=jax.devices()[:1])
    assert lines(workdir)[-1]["step"] == 6
    return config, workdir


def test_its_network_is_the_float_twin(stopped, caplog):
    with caplog.at_level(logging.INFO, "qresnet_jax"):
        trained = restore_run(*stopped)
    assert "float epochs" in caplog.text
    assert trained.config.model.weight_bits == 32
    data = tiny_set(stopped[0].data)
    logits = trained.model()(normalize(data.validation.images, jnp.asarray(data.mean, jnp.float32)))
    want = lines(stopped[1])[-1]["eval_accuracy"]
    assert np.mean(np.argmax(logits, -1) == data.validation.labels) == pytest.approx(want)


def test_it_is_measured_and_reported_in_float_but_not_exported(stopped):
    assert set(evaluate_checkpoint(*stopped)) == {"test_loss", "test_accuracy", "test_of_step"}
    write_report(*stopped)
    with pytest.raises(ExportError, match="float epochs"):
        fold_run(restore_run(*stopped))


def test_it_does_not_continue_with_another_number_of_float_epochs(stopped):
    config = stopped[0].copy_and_resolve_references()
    config.optim.float_epochs = 1
    with pytest.raises(CheckpointError, match=r"optim.float_epochs=1 \(was 2\)"):
        loop.train_and_evaluate(config, stopped[1], devices=jax.devices()[:1])


# ---- The switch --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def switch():
    """`(state before, state after, the images)`."""
    config = configuration(**{"optim.float_epochs": 1})
    model = create_model(config.model, rngs=nnx.Rngs(3))
    twin = FloatTwin(config, model)
    _, params, model_state = nnx.split(model, nnx.Param, ...)
    before = init_state(params, model_state, optim.optimizer(config.optim, params, 9, 3))
    data = tiny_set(config.data)
    images = normalize(data.train.images, jnp.asarray(data.mean, jnp.float32))
    return before, twin.quantize(before, images), images


def test_weights_become_binary_and_latent_weights_stay(switch):
    before, after, _ = switch
    for name, latent in by_layer(before.params, BinaryKernel).items():
        binary = by_layer(after.params, BinaryKernel)[name]
        want = np.abs(np.float64(latent)).mean() * np.where(latent >= 0, 1, -1)
        np.testing.assert_allclose(binary, want, rtol=1e-6)
    for part in ("latent", "trace"):
        for a, b in zip(
            *(jax.tree.leaves(optax.tree.get(s.opt_state, "latent")) for s in (before, after)), strict=True
        ):
            np.testing.assert_array_equal(a, b, part)


def test_clipping_levels_have_the_least_squared_error(switch):
    before, after, images = switch
    del before
    # The first quantizer reads the stream after the stem, which no other quantizer has touched.
    config = configuration(**FLOAT)
    twin = create_model(config.model, rngs=nnx.Rngs(3))
    twin.eval()
    x = np.float64(nnx.relu(twin.stem_norm(twin.stem(images))))

    def error(alpha):
        return np.mean((np.rint(np.clip(x, 0, alpha) * (3 / alpha)) * (alpha / 3) - x) ** 2)

    alpha = float(after.params["stages"][0][0]["acts"][0]["alpha"][...])
    best = min(error(a) for a in x.max() * np.arange(1, 101) / 100)
    assert error(alpha) == pytest.approx(best, rel=1e-4)
    assert 0 < alpha < x.max()
