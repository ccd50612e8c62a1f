"""Sweeps of runs of seconds, in this process; what one leaves is what its runs would leave alone."""

import json
import os
import shutil
import signal
import time

import jax
import numpy as np
import PIL.Image
import pytest

from qresnet_jax import data
from qresnet_jax.commands.sweep import run as sweeping
from qresnet_jax.errors import UserError
from qresnet_jax.train import loop
from qresnet_jax.train.metrics import records
from tests.train import tiny_runs

RATES = ("config.optim.learning_rate=0.02,0.05",)
NAMES = [f"learning_rate={rate}-seed={seed}" for seed in (0, 1) for rate in ("0.02", "0.05")]


@pytest.fixture(scope="module", autouse=True)
def tiny_data():
    with tiny_runs.tiny_data(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "load_dataset", tiny_runs.tiny_set)
        yield


def sweep(workdir, *, seeds="2", grid=RATES, together=None, **changes):
    config = tiny_runs.configuration(**{**tiny_runs.FLOAT, "num_epochs": 2, **changes})
    devices = jax.devices()[:1]
    return sweeping.sweep(config, workdir, seeds=seeds, grid=grid, together=together, devices=devices)


def plan_of(workdir):
    return json.loads((workdir / "sweep.json").read_text())


def states(workdir):
    return {m["name"]: m["state"] for m in plan_of(workdir)["members"]}


def records_of(workdir):
    return {name: tiny_runs.without_speed(tiny_runs.lines(workdir / name)) for name in NAMES}


@pytest.fixture(scope="module")
def complete(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("sweep") / "complete"
    return workdir, sweep(workdir)


@pytest.fixture
def copied(complete, tmp_path):
    """A copy of the complete sweep."""
    shutil.copytree(complete[0], tmp_path / "copied")
    return tmp_path / "copied"


@pytest.fixture
def trained(monkeypatch):
    """The names of the members that train, in order."""
    names = []
    real = loop.train_and_evaluate
    monkeypatch.setattr(
        loop, "train_and_evaluate", lambda c, w, **rest: (names.append(w.name), real(c, w, **rest))[1]
    )
    return names


def test_every_member_is_the_run_that_it_would_be_alone(complete, tmp_path):
    workdir, _ = complete
    alone = tmp_path / "alone"
    config = json.loads((workdir / NAMES[3] / "config.json").read_text())
    assert config["seed"] == 1 and config["optim"]["learning_rate"] == 0.05
    tiny_runs.run(alone, **{**tiny_runs.FLOAT, "num_epochs": 2, "seed": 1, "optim.learning_rate": 0.05})
    assert tiny_runs.without_speed(tiny_runs.lines(alone)) == records_of(workdir)[NAMES[3]]
    assert json.loads((alone / "config.json").read_text()) == config
    assert {p.name.split(".")[0] for p in alone.iterdir()} == {
        p.name.split(".")[0] for p in (workdir / NAMES[3]).iterdir()
    }


def test_the_comparison_has_means_deviations_and_counts_as_numpy_computes_them(complete):
    workdir, groups = complete
    assert states(workdir) == dict.fromkeys(NAMES, "complete")
    text = (workdir / "sweep.md").read_text()
    means = []
    for point in plan_of(workdir)["points"]:
        lines = [records_of(workdir)[f"{point['name']}-seed={seed}"] for seed in (0, 1)]
        assert point["seeds"] == [0, 1] and point["settings"] == {
            "optim.learning_rate": float(point["name"][14:])
        }
        best = np.array([max(line.get("eval_accuracy", 0) for line in run) for run in lines])
        test = np.array([run[-1]["test_accuracy"] for run in lines])
        cells = [point["name"], "2", "0, 1"]
        for name, values in (("eval_accuracy", best), ("test_accuracy", test)):
            got = point[name]
            assert got["count"] == 2
            np.testing.assert_allclose(
                [got["mean"], got["standard_deviation"]], [values.mean(), values.std(ddof=1)]
            )
            cells.append(f"{100 * values.mean():.2f} ± {100 * values.std(ddof=1):.2f}")
        assert f"| {' | '.join(cells)} | {100 * test.min():.2f} | 2 |" in text
        means.append(best.mean())
    assert means == sorted(means, reverse=True), "in the order of validation"
    assert f"which chooses {next(iter(groups))} (" in text and "![Comparison](sweep.png)" in text
    with PIL.Image.open(workdir / "sweep.png") as image:
        assert image.size[0] == 800


def test_a_complete_sweep_trains_nothing_and_a_larger_one_only_what_is_new(copied, trained):
    before = records_of(copied)
    sweep(copied)
    assert trained == []
    sweep(copied, seeds="0,2", grid=("config.optim.learning_rate=0.05,0.1",))
    assert trained == ["learning_rate=0.1-seed=0", "learning_rate=0.05-seed=2", "learning_rate=0.1-seed=2"]
    assert records_of(copied) == before
    assert {p["name"]: p["seeds"] for p in plan_of(copied)["points"]} == {
        "learning_rate=0.02": [0, 1],
        "learning_rate=0.05": [0, 1, 2],
        "learning_rate=0.1": [0, 2],
    }


def test_another_field_in_the_grid_finds_the_members_that_it_names_too(copied, trained):
    """The members that are there have momentum 0.9, as the config says."""
    sweep(copied, seeds="1", grid=("config.optim.learning_rate=0.05", "config.optim.momentum=0.9,0.5"))
    assert trained == ["learning_rate=0.05-momentum=0.5-seed=0"]
    # Without it in the grid, what the config says counts.
    sweep(copied, seeds="1", grid=("config.optim.learning_rate=0.05",), **{"optim.momentum": 0.5})
    assert len(trained) == 1 and len(plan_of(copied)["members"]) == 5


def test_another_config_is_refused_and_the_fields_are_named(copied):
    before = (copied / "sweep.json").read_bytes()
    with pytest.raises(
        UserError, match="holds a sweep of another config: config.num_epochs=3 .was 2.. Give the old"
    ):
        sweep(copied, num_epochs=3, log_every_steps=1)
    assert (copied / "sweep.json").read_bytes() == before
    sweep(copied, log_every_steps=1)  # without effect on what is learned


def test_the_workdir_of_a_run_is_refused(copied):
    with pytest.raises(UserError, match="is the workdir of a run: give another --workdir for the sweep"):
        sweep(copied / NAMES[0])


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1, "members": [{}], "base": {}}'])
def test_a_damaged_plan_is_refused_and_without_it_the_runs_are_found(copied, text, trained):
    (copied / "sweep.json").write_text(text)
    with pytest.raises(UserError, match="cannot be read as the plan of a sweep .*: delete it"):
        sweep(copied)
    (copied / "sweep.json").unlink()
    sweep(copied)
    assert trained == [] and states(copied) == dict.fromkeys(NAMES, "complete")


@pytest.fixture
def signal_at(monkeypatch):
    """`signal_at(number, write)` sends this process a signal after so many writes of metrics."""
    count, send = [0], []
    real = records.Metrics.write

    def write(self, *args, **kwargs):
        real(self, *args, **kwargs)
        count[0] += 1
        if send and count[0] == send[0][1]:
            os.kill(os.getpid(), send[0][0])

    monkeypatch.setattr(records.Metrics, "write", write)
    return lambda number, at: send.append((number, at))


# A member writes 7 times: two intervals and a validation in each of two epochs, and the test.
@pytest.mark.parametrize(
    ("number", "write", "expected"),
    [
        (signal.SIGTERM, 9, ["complete", "stopped", "planned", "planned"]),
        (
            signal.SIGINT,
            14,
            ["complete", "complete", "planned", "planned"],
        ),  # in the test of the second member
    ],
)
def test_a_stopped_sweep_compares_what_there_is_and_ends_as_one_that_was_not_stopped(
    complete, tmp_path, signal_at, number, write, expected, trained
):
    signal_at(number, write)
    groups = sweep(tmp_path)
    assert [*states(tmp_path).values()] == expected and len(trained) == 2
    assert {name: len(runs) for name, runs in groups.items()} == {
        "learning_rate=0.02": 2,
        "learning_rate=0.05": 2,
    }
    rest = len(expected) - expected.count("complete")
    text = (tmp_path / "sweep.md").read_text()
    assert (
        f"{rest} of 4 runs are not complete; the same command continues them." in text
        and "(1 of 2 runs)" in text
    )
    sweep(tmp_path)
    assert records_of(tmp_path) == records_of(complete[0])
    assert (tmp_path / "sweep.md").read_text().replace(str(tmp_path), "") == (
        complete[0] / "sweep.md"
    ).read_text().replace(str(complete[0]), "")


def test_a_member_that_diverges_is_named_and_the_others_go_on(copied, trained):
    grid = ("config.optim.learning_rate=0.02,1e30",)
    sweep(copied, seeds="1", grid=grid)
    name = "learning_rate=1e+30-seed=0"
    assert trained == [name] and states(copied)[name] == "diverged"
    text = (copied / "sweep.md").read_text()
    assert (
        f"{name} has diverged: the " in text and "| learning_rate=1e+30 | 1 | 0 |  |  |  | diverged |" in text
    )
    assert plan_of(copied)["points"][-1]["name"] == "learning_rate=1e+30", "it is the last"
    sweep(copied, seeds="1", grid=grid)
    assert len(trained) == 1, "it would diverge again"
    shutil.rmtree(copied / name)
    sweep(copied, seeds="1", grid=grid)
    assert trained == [name, name]


@pytest.mark.parametrize("error", [UserError("no room"), RuntimeError("out of memory")])
def test_a_member_that_fails_is_tried_again_and_the_others_go_on(complete, tmp_path, monkeypatch, error):
    real = loop.train_and_evaluate

    def train(config, workdir, **rest):
        if workdir.name == NAMES[1]:
            raise error
        shutil.copytree(complete[0] / workdir.name, workdir)

    monkeypatch.setattr(loop, "train_and_evaluate", train)
    with pytest.raises(
        UserError, match=f"1 of 4 runs failed, such as {NAMES[1]}: .*{error}. The same command tries"
    ):
        sweep(tmp_path)
    assert [*states(tmp_path).values()] == ["complete", "failed", "complete", "complete"]
    assert f"{NAMES[1]} has failed: " in (tmp_path / "sweep.md").read_text()
    monkeypatch.setattr(loop, "train_and_evaluate", real)
    sweep(tmp_path)
    assert [*states(tmp_path).values()] == ["complete"] * 4
    assert records_of(tmp_path) == records_of(complete[0])


def test_settings_with_a_failed_seed_are_not_chosen_before_those_without(copied):
    """Their mean is over the seeds that went well."""
    plan = plan_of(copied)
    best = plan["points"][0]
    for member in plan["members"]:
        if member["name"] == f"{best['name']}-seed=0":
            member["failure"], member["error"] = "diverged", "by decree"
    (copied / "sweep.json").write_text(json.dumps(plan))
    (copied / f"{best['name']}-seed=0" / "metrics.jsonl").write_text("")
    sweep(copied)
    assert [p["name"] for p in plan_of(copied)["points"]][-1] == best["name"]


@pytest.mark.parametrize("changes", [{"data.holdout": 0.0}])
def test_without_validation_nothing_is_chosen(tmp_path, changes):
    sweep(tmp_path, seeds="1", num_epochs=1, **changes)
    text = (tmp_path / "sweep.md").read_text()
    assert "Nothing is chosen here." in text and "config.data.holdout" in text and "which chooses" not in text
    assert [p["name"] for p in plan_of(tmp_path)["points"]] == ["learning_rate=0.02", "learning_rate=0.05"]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        (["config.batch_size=16,15"], "config.batch_size=15: must be a multiple of the 2 devices"),
        (["config.model.num_classes=4,5"], "config.model.num_classes=5: must be 4 for tiny"),
    ],
)
def test_what_only_data_and_devices_tell_is_refused_before_anything_trains(tmp_path, grid, message):
    with pytest.raises(UserError, match=message):
        sweeping.sweep(tiny_runs.configuration(), tmp_path / "x", grid=grid, devices=jax.devices()[:2])
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("config.init_from='',nowhere", "^config.init_from='nowhere': there is no checkpoint"),
        (
            "config.optim.distillation.teacher='',nowhere",
            "^config.optim.distillation.teacher='nowhere': there is no checkpoint",
        ),
        ("config.model.name=resnet,json:nothing", "config.model.name='json:nothing'.*no .*nothing"),
    ],
)
def test_what_is_not_there_is_refused_before_data_are_read(tmp_path, monkeypatch, grid, message):
    monkeypatch.setattr(data, "load_dataset", lambda *_: pytest.fail("has read the data"))
    with pytest.raises(UserError, match=message):
        sweep(tmp_path / "x", grid=(grid,))
    assert not (tmp_path / "x").exists()


def test_a_second_sweep_in_the_same_directory_is_refused(copied, monkeypatch):
    from qresnet_jax.train.checkpoints.workdir import claim_workdir

    with claim_workdir(copied), pytest.raises(UserError, match="another process trains in"):
        sweep(copied)


@pytest.mark.slow  # in this process it is tested above, but for the end by SIGKILL
def test_a_killed_sweep_is_continued_by_the_same_command(start_main, run_main, tmp_path):
    flags = ("sweep", "--config=digits", "--seeds=2", "--grid", RATES[0], "--config.num_epochs=2")
    process = start_main(*flags, f"--workdir={tmp_path}/killed")
    deadline = time.monotonic() + 900  # a busy machine compiles slowly
    while not (tmp_path / "killed" / NAMES[1] / "checkpoints").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    process.wait(timeout=60)
    assert states(tmp_path / "killed")[NAMES[0]] == "complete"
    for name in ("killed", "whole"):
        result = run_main(*flags, f"--workdir={tmp_path}/{name}")
        assert result.returncode == 0 and "Traceback" not in result.stderr, result.stderr
    assert records_of(tmp_path / "killed") == records_of(tmp_path / "whole")


def test_runs_that_are_trained_together_are_stopped_and_continued_too(tmp_path, signal_at):
    signal_at(signal.SIGTERM, 4)
    grid = ("config.optim.learning_rate=0.02,1e30",)
    sweep(tmp_path, grid=grid, together="2")
    names = ["learning_rate=0.02-seed=0", "learning_rate=1e+30-seed=0"]
    assert states(tmp_path)[names[0]] == "stopped"
    sweep(tmp_path, grid=grid, together="2")
    assert [*states(tmp_path).values()] == ["complete", "diverged"] * 2
    assert [p["test_accuracy"]["count"] for p in plan_of(tmp_path)["points"]] == [2, 0]
    sweep(tmp_path, grid=grid, together="1")  # finds nothing to do


@pytest.mark.parametrize("together", ["0", "-1", "two", "", "1.5"])
def test_a_wrong_number_at_once_is_refused(tmp_path, together):
    with pytest.raises(UserError, match=f"--together={together}: must be auto, or a number"):
        sweep(tmp_path, together=together)
