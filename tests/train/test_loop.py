"""`train_and_evaluate` from start to end on a tiny set, in this process: records, model selection, warm start, NaN."""

import itertools
import json
import math
import os
import re
import shutil
import signal
import time

import jax
import numpy as np
import pytest

from qresnet_jax.errors import CheckpointError, ConfigError, DivergedError
from qresnet_jax.train import evaluator as evaluate
from qresnet_jax.train import loop, parts
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints
from tests.train.tiny_runs import FLOAT, configuration, kept, lines, run, tiny_data, without_speed

ALWAYS = {"step", "train_loss", "train_accuracy", "learning_rate", "images_per_second"}
EVALUATED = ALWAYS | {"eval_loss", "eval_accuracy"}
TESTED = {"test_loss", "test_accuracy", "test_of_step"}


@pytest.fixture(scope="module", autouse=True)
def only_tiny_data():
    with tiny_data():
        yield


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run's workdir and result."""
    workdir = tmp_path_factory.mktemp("finished") / "run"
    return workdir, run(workdir)


@pytest.fixture(scope="module")
def finished_float(tmp_path_factory):
    """The workdir of three epochs of a float network, which are traced and compiled in a third of the time."""
    workdir = tmp_path_factory.mktemp("finished_float") / "run"
    run(workdir, **FLOAT)
    return workdir


@pytest.fixture(scope="module")
def float_run(tmp_path_factory):
    """The workdir of one epoch of a float network."""
    workdir = tmp_path_factory.mktemp("float") / "run"
    run(workdir, **FLOAT, num_epochs=1)
    return workdir


def names(workdir):
    """Of the metrics of each line; a slash is in the names of diagnostics by layer only."""
    return [{name for name in line if "/" not in name} for line in lines(workdir)]


def choose_validation(monkeypatch, *accuracies):
    """Lets the validation split, and no other, have these accuracies."""
    left = list(accuracies)

    class Chosen(parts.Evaluator):
        def __call__(self, params, model_state, split):
            result = super().__call__(params, model_state, split)
            return result | {"accuracy": left.pop(0)} if len(split.labels) == 16 else result

    monkeypatch.setattr(parts, "Evaluator", Chosen)


# ---- Records -----------------------------------------------------------------------------------------------


def test_a_run_records_every_interval_every_epoch_and_the_test_once(finished):
    workdir, result = finished
    records = lines(workdir)
    assert [line["step"] for line in records] == [2, 3, 5, 6, 8, 9]
    assert names(workdir) == [ALWAYS, EVALUATED, ALWAYS, EVALUATED, ALWAYS, EVALUATED | TESTED]
    assert result == records[-1]
    for line in records:  # the rate of the last step of each interval
        want = 0.1 * 0.5 * (1 + math.cos(math.pi * (line["step"] - 1) / 9))
        assert line["learning_rate"] == pytest.approx(want, rel=1e-5)
    assert json.loads((workdir / "config.json").read_text())["model"]["depth"] == 8


def test_the_log_says_devices_data_network_progress_and_result(finished):
    log = [
        line[20:] for line in (finished[0] / "train.log").read_text().splitlines()
    ]  # without date and time
    assert log[0] == "devices: 1 x cpu, shard_map, batch norm over all devices"
    assert log[1] == "data: tiny, 40 train, 16 validation, 20 test images of 8x8x1"
    binary, alphas = 16 * 16 * 9 * 2 + 16 * 32 * 10 + 32 * 32 * 9 + 32 * 64 * 10 + 64 * 64 * 9, 6
    norms = 2 * (3 * 16 + 3 * 32 + 3 * 64)
    total = binary + alphas + norms + 9 * 16 + 64 * 4 + 4
    assert log[2].startswith("network: ResNet-8, 1-bit weights, pact activations of 2/2/2 bits")
    text = (finished[0] / "train.log").read_text()
    assert (
        f"{total:,} parameters ({total - alphas:,} without clipping levels), {binary:,} of them binary"
        in text
    )
    log[3:] = [line for line in log[3:] if line.startswith(("epoch", "done"))]  # without the layer table
    step = r"epoch 1/3  step 2/9  loss \d+\.\d{4}  accuracy \d+\.\d\d%  [\d,]+ images/s  \d+:\d\d left"
    assert re.fullmatch(step, log[3])
    assert re.fullmatch(r"epoch 1/3  validation loss \d+\.\d{4}  accuracy \d+\.\d\d %", log[5])
    assert re.fullmatch(
        r"done: test accuracy \d+\.\d\d %, loss \S+, of the checkpoint at step \d, in .*", log[-1]
    )


def test_several_steps_a_dispatch_give_the_same_records(float_run, tmp_path):
    run(tmp_path, **FLOAT, num_epochs=1, steps_per_dispatch=2)
    for a, b in zip(without_speed(lines(float_run)), without_speed(lines(tmp_path)), strict=True):
        # XLA fuses a loop's body in another way: float32's last digits. Accuracies may not differ by an image.
        assert a == {name: pytest.approx(value, rel=1e-3, abs=1e-6) for name, value in b.items()}


# ---- Model selection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accuracies", "every", "saved", "chosen"),
    [
        ((0.9, 0.5, 0.6), 2, [3, 6, 9], 3),
        ((0.1, 0.2, 0.1), 10, [6, 9], 6),
        ((0.3, 0.3, 0.4), 3, [9], 9),
    ],
)
def test_the_best_of_validation_meets_the_test_split(tmp_path, monkeypatch, accuracies, every, saved, chosen):
    steps, save = [], Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, step, *a: steps.append(step) or save(self, step, *a)
    )
    choose_validation(monkeypatch, *accuracies)
    result = run(tmp_path, **FLOAT, checkpoint_every_epochs=every)
    assert [line["eval_accuracy"] for line in lines(tmp_path) if "eval_accuracy" in line] == list(accuracies)
    assert steps == saved, "of every so many epochs, of the end, and of the best before each"
    assert result["test_of_step"] == chosen and kept(tmp_path) == sorted({chosen, 9})
    again = evaluate.evaluate_checkpoint(configuration(**FLOAT), tmp_path, devices=jax.devices()[:1])
    assert {name: again[name] for name in TESTED} == {name: result[name] for name in TESTED}


def arrays(workdir, step):
    checkpoints = Checkpoints(workdir, read_only=True)
    found = checkpoints.arrays(step)
    checkpoints.close()
    return found


def test_a_best_state_that_waits_for_the_next_checkpoint_stays_as_it_was(tmp_path, monkeypatch):
    for every in (1, 10):
        with monkeypatch.context() as patch:
            choose_validation(patch, 0.9, 0.5, 0.6)
            run(tmp_path / str(every), **FLOAT, checkpoint_every_epochs=every)
    want, got = (arrays(tmp_path / name, 3) for name in ("1", "10"))
    assert want.keys() == got.keys()
    for path, x in want.items():
        np.testing.assert_array_equal(got[path], x, path)


def test_a_run_that_is_stopped_saves_the_best_state_too(tmp_path, monkeypatch):
    choose_validation(monkeypatch, 0.9, 0.5, 0.6)
    validated, validate = itertools.count(1), parts.Evaluator.__call__

    def stopped_in_the_second(*args):
        if next(validated) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(*args)

    monkeypatch.setattr(parts.Evaluator, "__call__", stopped_in_the_second)
    run(tmp_path, **FLOAT, checkpoint_every_epochs=10)
    assert kept(tmp_path) == [3, 6]
    assert run(tmp_path, **FLOAT, checkpoint_every_epochs=10)["test_of_step"] == 3


def test_a_run_that_diverges_saves_the_best_state_before(tmp_path, monkeypatch):
    choose_validation(monkeypatch, 0.9, 0.5, 0.6)

    def diverged(state):
        if state.step > 6:
            raise DivergedError("of the test")

    monkeypatch.setattr(loop, "check_finite", diverged)
    with pytest.raises(DivergedError, match="of the test. The last good checkpoint is kept, of step 3,"):
        run(tmp_path, **FLOAT, checkpoint_every_epochs=10)
    assert kept(tmp_path) == [3]


def test_without_a_holdout_the_last_checkpoint_is_the_model(tmp_path):
    result = run(tmp_path, **{"data.holdout": 0.0})
    assert names(tmp_path) == [ALWAYS] * 5 + [ALWAYS | TESTED]
    assert result["test_of_step"] == 9 and kept(tmp_path) == [9]
    config = configuration(**{"data.holdout": 0.0})
    again = evaluate.evaluate_checkpoint(config, tmp_path, devices=jax.devices()[:1])
    assert {name: again[name] for name in TESTED} == {name: result[name] for name in TESTED}


def test_a_finished_run_is_not_trained_or_tested_again(finished, tmp_path, monkeypatch):
    workdir, result = tmp_path / "run", finished[1]
    shutil.copytree(finished[0], workdir)

    def refuse(*_):
        raise AssertionError("the test split is used once")

    monkeypatch.setattr(parts, "Evaluator", lambda *_: refuse)
    monkeypatch.setattr(parts, "map_train_step", refuse)
    assert run(workdir) == result
    assert (workdir / "metrics.jsonl").read_bytes() == (finished[0] / "metrics.jsonl").read_bytes()


def test_evaluation_of_a_path_without_checkpoint_is_refused_and_makes_nothing(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint in .*nowhere"):
        evaluate.evaluate_checkpoint(configuration(), tmp_path / "nowhere")
    assert not list(tmp_path.iterdir())


# ---- Warm start, NaN ---------------------------------------------------------------------------------------


def test_a_field_without_effect_is_named_in_the_log(tmp_path):
    run(tmp_path, **FLOAT, **{"optim.distillation.weight": 0.7, "num_epochs": 1})
    line = "config.optim.distillation.weight=0.7 has no effect without config.optim.distillation.teacher"
    assert line in (tmp_path / "train.log").read_text()


def test_a_binary_run_starts_from_a_float_run_once(float_run, tmp_path):
    run(tmp_path, init_from=str(float_run))
    log = (tmp_path / "train.log").read_text()
    report = rf"warm start from {float_run} at step 3: 47 arrays matched; 6 are missing there and keep .*: \S+alpha"
    assert re.search(report, log)
    run(tmp_path, init_from=str(float_run))  # this workdir's checkpoint comes first
    log = (tmp_path / "train.log").read_text()
    assert log.count("warm start") == 1 and "continuing from step 9 of 9" in log


@pytest.mark.parametrize("field", ["init_from", "optim.distillation.teacher"])
def test_another_run_that_is_nowhere_is_refused_before_data_are_read(tmp_path, monkeypatch, field):
    monkeypatch.setattr(parts, "load_dataset", lambda *_: pytest.fail("has read the data"))
    with pytest.raises(CheckpointError, match=f"^config.{field}='.*nowhere': there is no checkpoint"):
        run(tmp_path / "run", **{field: str(tmp_path / "nowhere")})
    assert not (tmp_path / "nowhere").exists()


def test_a_run_that_has_begun_needs_no_other_one_to_start_from(float_run, tmp_path):
    shutil.copytree(float_run, tmp_path / "first")
    run(tmp_path / "run", init_from=str(tmp_path / "first"), num_epochs=1)
    shutil.rmtree(tmp_path / "first")
    run(tmp_path / "run", init_from=str(tmp_path / "first"), num_epochs=2)


def test_a_mistake_in_a_network_of_ones_own_is_found_before_data_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "load_dataset", lambda *_: pytest.fail("has read the data"))
    (tmp_path / "own.py").write_text("def net(config, *, rngs):\n    return 7\n")
    with pytest.raises(ConfigError, match="must return a Flax NNX module, got int"):
        run(tmp_path / "run", **{"model.name": f"{tmp_path}/own.py:net"})


def assert_finite(workdir):
    checkpoints = Checkpoints(workdir, read_only=True)
    for step in kept(workdir):
        for path, x in checkpoints.arrays(step).items():
            assert np.isfinite(x).all(), f"{path} of the checkpoint at step {step}"
    checkpoints.close()


def test_a_diverging_run_stops_and_names_the_step_and_keeps_the_last_good_checkpoint(float_run, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(float_run, workdir)
    # The first look is after three steps: parameters that are not finite have reached the loss by then.
    changes = {**FLOAT, "optim.learning_rate": 3e38, "log_every_steps": 3, "checkpoint_every_epochs": 9}
    with pytest.raises(DivergedError) as caught:
        run(workdir, **changes, num_epochs=9)
    found = re.match(
        r"the loss is not finite at step (\d+): lower config.optim.learning_rate, or ", str(caught.value)
    )
    assert 3 < int(found[1]) < 12
    end = "The last good checkpoint is kept, of step 3, and the same command continues from it"
    assert str(caught.value).endswith(end)
    assert kept(workdir) == [3]
    assert_finite(workdir)


def test_a_checkpoint_never_holds_what_is_not_finite(tmp_path):
    # A whole epoch is one step: its loss is finite, the parameters after it, of weights times 3e41, are not.
    changes = {**FLOAT, "batch_size": 40, "optim.weight_decay": 1e3, "optim.learning_rate": 3e38}
    with pytest.raises(DivergedError) as caught:
        run(tmp_path, **changes)
    assert kept(tmp_path) == []
    assert str(caught.value).endswith("No checkpoint was saved before that, so the run begins anew")


# ---- Mishaps -----------------------------------------------------------------------------------------------

PHASES = {
    "loading the data": (parts, "load_dataset"),
    "compiling": (parts, "make_train_step"),
    "validating": (parts.Evaluator, "__call__"),
    "saving": (Checkpoints, "save"),
    "testing": (loop.Training, "finish"),
}


RARE = ("loading the data", "validating")  # slow: a signal is read where it is in the other phases, too


@pytest.mark.parametrize(
    "phase", [pytest.param(phase, marks=[pytest.mark.slow] * (phase in RARE)) for phase in PHASES]
)
def test_an_interrupt_in_any_phase_loses_nothing(finished_float, tmp_path, monkeypatch, phase):
    owner, name = PHASES[phase]
    original, first = getattr(owner, name), itertools.count()

    def interrupted(*args, **kwargs):
        if next(first) == 0:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, interrupted)
        run(tmp_path, **FLOAT)
    before = lines(tmp_path) if (tmp_path / "metrics.jsonl").exists() else []
    run(tmp_path, **FLOAT)
    assert without_speed(lines(tmp_path)) == without_speed(lines(finished_float))
    known = {record["step"] for record in before}
    assert [r for r in lines(tmp_path) if r["step"] in known][: len(known) - 1] == before[:-1], "done twice"


def test_a_second_interrupt_stops_at_once_and_keeps_the_checkpoints(finished_float, tmp_path, monkeypatch):
    validated = itertools.count(1)
    original = parts.Evaluator.__call__

    def interrupted_twice(*args):
        if next(validated) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return original(*args)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(parts.Evaluator, "__call__", interrupted_twice)
        run(tmp_path, **FLOAT)
    assert kept(tmp_path) == [3]
    run(tmp_path, **FLOAT)
    assert without_speed(lines(tmp_path)) == without_speed(lines(finished_float))


@pytest.mark.slow
def test_a_clock_that_jumps_changes_nothing(finished_float, tmp_path, monkeypatch):
    year, now, validate = 365 * 86400, time.time, parts.Evaluator.__call__

    def jump_and_interrupt(*args):
        monkeypatch.setattr(time, "time", lambda: now() - year)
        monkeypatch.setattr(parts.Evaluator, "__call__", validate)
        os.kill(os.getpid(), signal.SIGINT)
        return validate(*args)

    monkeypatch.setattr(time, "time", lambda: now() + year)
    monkeypatch.setattr(parts.Evaluator, "__call__", jump_and_interrupt)
    run(tmp_path, **FLOAT)
    assert kept(tmp_path) == [3]
    run(tmp_path, **FLOAT)
    assert kept(tmp_path) == kept(finished_float)
    assert without_speed(lines(tmp_path)) == without_speed(lines(finished_float))
    assert all(0 < line["images_per_second"] < 1e6 for line in lines(tmp_path))
