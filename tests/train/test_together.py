"""Runs that are trained at once: alone on a device to the bit what they are alone, by `vmap` the same up to rounding."""

import os
import signal

import jax
import numpy as np
import pytest

from qresnet_jax.errors import DivergedError
from qresnet_jax.train import together
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints
from qresnet_jax.train.metrics import records
from tests.train import tiny_runs

DEVICES = jax.devices()[:2]
# Every number of `NUMBERS` is another one in the second run.
FIRST = dict.fromkeys(together.NUMBERS, 0.01) | {
    "optim.gradient_clip": 1.0,
    "optim.temperature.end": 10.0,
}
FIRST |= {"optim.momentum": 0.9}
SECOND = {name: value * 0.5 for name, value in FIRST.items()}
CHANGES = [{"seed": seed, "num_epochs": 2, **numbers} for seed, numbers in enumerate((FIRST, SECOND, FIRST))]


@pytest.fixture(scope="module", autouse=True)
def tiny_data():
    with tiny_runs.tiny_data():
        yield


def train(directory, changes, at_once, devices, **more):
    """Returns how each run ended, by its name."""
    runs = [
        together.Run(tiny_runs.configuration(**c, **more), directory / str(i), str(i))
        for i, c in enumerate(changes)
    ]
    results = {}
    together.train_together(
        runs, at_once, lambda run, result: results.update({run.name: result}), devices=devices
    )
    return results


def arrays(workdir):
    with Checkpoints(workdir, read_only=True) as checkpoints:
        return {step: checkpoints.arrays(step) for step in checkpoints.steps}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Each run by `train_and_evaluate` on one device."""
    directory = tmp_path_factory.mktemp("alone")
    for i, changes in enumerate(CHANGES):
        tiny_runs.run(directory / str(i), **changes)
    return directory


@pytest.mark.slow
def test_a_run_on_a_device_of_its_own_is_to_the_bit_what_it_is_alone(alone, tmp_path):
    results = train(tmp_path, CHANGES, 2, DEVICES)
    for i in range(len(CHANGES)):
        lines = tiny_runs.lines(tmp_path / str(i))
        assert tiny_runs.without_speed(lines) == tiny_runs.without_speed(tiny_runs.lines(alone / str(i)))
        assert results[str(i)] == lines[-1]
        got, want = arrays(tmp_path / str(i)), arrays(alone / str(i))
        assert got.keys() == want.keys()
        for step in want:
            assert got[step].keys() == want[step].keys()
            for path, x in want[step].items():
                assert got[step][path].tobytes() == x.tobytes(), (i, step, path)
        names = [{p.name.split(".")[0] for p in (where / str(i)).iterdir()} for where in (tmp_path, alone)]
        assert names[0] == names[1]
        assert (tmp_path / str(i) / "config.json").read_text() == (alone / str(i) / "config.json").read_text()
    log = (tmp_path / "1" / "train.log").read_text()
    assert "network: ResNet-8" in log and "done: test accuracy" in log and log.count("devices: 1 x") == 1


# As float networks, since in a low-bit one a rounding moves a whole level, and that moves others.
FLOAT = [{**changes, **tiny_runs.FLOAT} for changes in CHANGES[:2]]


def test_by_vmap_a_run_is_what_it_is_alone_up_to_rounding(tmp_path):
    train(tmp_path, FLOAT, 2, DEVICES[:1])
    for i, changes in enumerate(FLOAT):
        tiny_runs.run(tmp_path / f"alone{i}", **changes)
        got, want = (
            tiny_runs.without_speed(tiny_runs.lines(tmp_path / name)) for name in (str(i), f"alone{i}")
        )
        assert [line.keys() for line in got] == [line.keys() for line in want]
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose([*a.values()], [*b.values()], rtol=1e-4, atol=1e-6)
        got, want = arrays(tmp_path / str(i)), arrays(tmp_path / f"alone{i}")
        assert got.keys() == want.keys()
        for step in want:
            for path, x in want[step].items():
                np.testing.assert_allclose(got[step][path], x, rtol=1e-3, atol=1e-4, err_msg=path)


def test_an_error_ends_its_run_and_no_other(tmp_path):
    changes = [{**FLOAT[0], "optim.learning_rate": 1e30}, {**FLOAT[0], "model.num_classes": 5}, FLOAT[0]]
    results = train(tmp_path, changes, 3, DEVICES[:1])
    assert isinstance(results["0"], DivergedError) and "must be 4 for tiny" in str(results["1"])
    assert "test_accuracy" in results["2"]


@pytest.mark.slow
def test_a_signal_saves_all_and_the_rest_is_continued(alone, tmp_path, monkeypatch):
    count = []
    real = records.Metrics.write

    def write(self, *args, **kwargs):
        real(self, *args, **kwargs)
        count.append(0)
        if len(count) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(records.Metrics, "write", write)
    results = train(tmp_path, CHANGES, 2, DEVICES)
    assert (
        sorted(results) == ["0", "1"]
        and "test_accuracy" not in results["0"]
        and not (tmp_path / "2").exists()
    )
    train(tmp_path, CHANGES, 2, DEVICES)
    for i in range(len(CHANGES)):
        got, want = (tiny_runs.without_speed(tiny_runs.lines(where / str(i))) for where in (tmp_path, alone))
        assert got == want


@pytest.mark.parametrize(
    ("changes", "is_one_program"),
    [
        ({"seed": 1}, True),
        ({"optim.learning_rate": 0.2, "optim.momentum": 0.5, "log_every_steps": 1}, True),
        ({"optim.momentum": 0.0}, False),
        ({"optim.label_smoothing": 0.2}, False),  # it would not be to the bit what it is alone
        ({"optim.weight_decay": 0.1}, False),
        ({"model.width": 2}, False),
        ({"num_epochs": 4}, False),
        ({"optim.hysteresis.relative": False}, False),
    ],
)
def test_runs_share_a_program_if_they_differ_in_numbers_only(changes, is_one_program):
    """A term that is 0 is no part of the program, as it is without `vmap`."""
    both = ({"optim.label_smoothing": 0.1}, {"optim.label_smoothing": 0.1, **changes})
    keys = [together.program_key(tiny_runs.configuration(**c)) for c in both]
    assert (keys[0] == keys[1]) == is_one_program
