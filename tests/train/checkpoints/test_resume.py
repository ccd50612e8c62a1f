"""A run goes on as itself or not at all: the same network, data and order, whatever else its config changes."""

import copy
import json
import pathlib
import shutil
import types

import numpy as np
import orbax.checkpoint as ocp
import pytest

from qresnet_jax.config import default_config, flatten
from qresnet_jax.data import Split
from qresnet_jax.errors import CheckpointError
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints, to_json
from qresnet_jax.train.checkpoints.resume import check_same_run, continue_run
from qresnet_jax.train.evaluator import evaluate_checkpoint, restore_run
from tests.train.tiny_runs import FLOAT, configuration, kept, run, tiny_data, tiny_set

PLACE = pathlib.Path("runs/a/checkpoints/7")


@pytest.fixture(scope="module", autouse=True)
def only_tiny_data():
    with tiny_data():
        yield


@pytest.fixture(scope="module")
def float_run(tmp_path_factory):
    """The workdir of one epoch of a float network."""
    workdir = tmp_path_factory.mktemp("float") / "run"
    run(workdir, **FLOAT, num_epochs=1)
    return workdir


def description(**changes):
    """What a checkpoint says of a run, with fields changed by their dotted names."""
    config = default_config()
    with config.ignore_type():
        config.update_from_flattened_dict(changes)
    data = {"class_names": ["a", "b"], "mean": [80.5], "image_shape": [8, 8, 1], "checksum": "90abcdef"}
    return {"config": to_json(config.to_dict()), **data}


def other(value):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return (1, *value[1:])
    return f"{value}x" if isinstance(value, str) else value + 1


def refusal(saved, given):
    with pytest.raises(CheckpointError) as caught:
        check_same_run(saved, given, PLACE)
    return str(caught.value)


# ---- What may change ---------------------------------------------------------------------------------------

KEPT = ("seed", "batch_size", "dtype", "data.name", "data.holdout", "optim.name", "optim.float_epochs")
FIELDS = flatten(default_config())


@pytest.mark.parametrize("field", [name for name in FIELDS if name.startswith("model.") or name in KEPT])
def test_what_the_network_computes_and_what_its_steps_see_do_not_change(field):
    message = refusal(description(), description(**{field: other(FIELDS[field])}))
    assert message == (
        f"the checkpoint {PLACE} belongs to a run with other settings: config.{field}={other(FIELDS[field])} "
        f"(was {FIELDS[field]}). Give the old values, or another --workdir (with --config.init_from=runs/a to start "
        "from the weights of this run)"
    )


def test_all_that_changes_is_named_at_once():
    changes = {"model.act_bits": (1, 1, 1), "model.activation": "lsq", "num_epochs": 5}
    message = refusal(description(), description(**changes))
    assert "config.model.act_bits=(1, 1, 1) (was (2, 2, 2))" in message
    assert "config.model.activation=lsq (was pact)" in message and "num_epochs" not in message


@pytest.mark.parametrize(
    "field",
    [name for name in FIELDS if not name.startswith("model.") and name not in KEPT],
)
def test_everything_else_may_change(field):
    check_same_run(description(), description(**{field: other(FIELDS[field])}), PLACE)


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("mean", [81.0], "the pixel means were [80.5] and are [81.0]"),
        ("class_names", ["b", "a"], "the class names were ['a', 'b'] and are ['b', 'a']"),
        ("checksum", "12345678", "the checksum of the train images was 90abcdef and is 12345678"),
        ("checksum_of_files", "12345678", "the checksum of the files was abcdef90 and is 12345678"),
        ("image_shape", [9, 8, 1], "the image shape was [8, 8, 1] and is [9, 8, 1]"),
    ],
)
def test_other_data_under_the_same_name_are_refused(name, value, text):
    streamed = {"checksum_of_files": "abcdef90"}
    message = refusal(description() | streamed, description() | streamed | {name: value})
    assert "belongs to a run on other data: " in message and "--config.init_from=runs/a" in message
    assert text in message


def test_fields_of_other_versions_do_not_break_a_run():
    newer = description()
    older = copy.deepcopy(newer)
    del older["config"]["model"]["sync_bn"], older["config"]["dtype"]
    older["config"]["model"]["gone"], older["config"]["gone"] = 7, {"too": 8}
    check_same_run(older, newer, PLACE)
    message = refusal(older, description(**{"model.sync_bn": False}))
    assert "config.model.sync_bn=False (was True)" in message, "what it had is the default"


def test_the_best_checkpoint_is_of_the_same_network_too():
    """Earlier versions let a run go on as another network, and its checkpoints may be of two."""
    descriptions = {3: description(), 6: description(**{"model.act_bits": (1, 1, 1)})}
    checkpoints = types.SimpleNamespace(
        steps=[3, 6], latest_step=6, directory=PLACE.parent, meta=descriptions.__getitem__
    )
    with pytest.raises(
        CheckpointError, match=r"checkpoints/3 belongs .*act_bits=\(1, 1, 1\) \(was \(2, 2, 2\)\)"
    ):
        continue_run(checkpoints, None, descriptions[6], 9)


# ---- Whole runs --------------------------------------------------------------------------------------------


def contents(workdir):
    return {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file() and p.name != "train.log"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("batch_size", 8),
        ("seed", 1),
        ("data.holdout", 0.5),
        ("model.stem_weight_bits", 8),
        ("model.depth", 14),
    ],
)
def test_a_run_does_not_go_on_as_another_run_and_stays_as_it_was(float_run, tmp_path, field, value):
    workdir = tmp_path / "run"
    shutil.copytree(float_run, workdir)
    before = contents(workdir)
    with pytest.raises(CheckpointError, match=rf"a run with other settings: config.{field}={value} \(was "):
        run(workdir, **{**FLOAT, "num_epochs": 2, field: value})
    assert contents(workdir) == before


def test_a_run_does_not_go_on_with_other_pixel_means(float_run, tmp_path):
    shutil.copytree(float_run, tmp_path / "run")
    before = contents(tmp_path / "run")

    def brighter(config, *_):
        data = tiny_set(config)
        return data.with_train(Split(data.train.images + np.uint8(1), data.train.labels))

    with (
        tiny_data(brighter),
        pytest.raises(CheckpointError, match=r"the pixel means were \[\d+\.\d\] and are \[\d+\.\d\]"),
    ):
        run(tmp_path / "run", **FLOAT, num_epochs=2)
    assert contents(tmp_path / "run") == before


def test_another_optimizer_is_refused_by_what_differs(float_run, tmp_path):
    shutil.copytree(float_run, tmp_path / "run")
    with pytest.raises(CheckpointError, match="another network or optimizer.*\n  opt_state.*trace"):
        run(tmp_path / "run", **FLOAT, **{"optim.momentum": 0.0}, num_epochs=2)
    log = (tmp_path / "run" / "train.log").read_text()
    assert "changed since the checkpoint: " in log and "config.optim.momentum=0.0 (was 0.9)" in log


def test_a_run_that_cannot_be_read_or_continued_is_closed(float_run, tmp_path, monkeypatch):
    workdir = tmp_path / "run"
    shutil.copytree(float_run, workdir)
    (workdir / "checkpoints" / "3" / "state" / "manifest.ocdbt").write_bytes(b"")
    opened, closed = [], []
    for name, calls in (("__init__", opened), ("close", closed)):
        usual = getattr(ocp.CheckpointManager, name)

        def noted(self, *args, usual=usual, calls=calls, **kwargs):
            calls.append(self)
            return usual(self, *args, **kwargs)

        monkeypatch.setattr(ocp.CheckpointManager, name, noted)
    config = configuration(**FLOAT, num_epochs=2)
    for attempt in (
        lambda: run(workdir, **FLOAT, num_epochs=2),
        lambda: run(tmp_path / "new", **FLOAT, init_from=str(workdir)),
        lambda: restore_run(config, workdir),
        lambda: evaluate_checkpoint(config, workdir),
    ):
        with pytest.raises(CheckpointError, match="its file state/manifest.ocdbt has changed"):
            attempt()
    assert len(opened) == 6 and set(map(id, opened)) == set(map(id, closed))


def test_a_run_is_not_cut_short(float_run, tmp_path):
    shutil.copytree(float_run, tmp_path / "run")
    run(tmp_path / "run", **FLOAT, num_epochs=2)
    with pytest.raises(CheckpointError, match=r"trained for 6 steps, more than the 3 of config.num_epochs=1"):
        run(tmp_path / "run", **FLOAT, num_epochs=1)
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_epochs"] == 2, "that of the run"


def test_what_changes_in_a_run_that_goes_on_is_logged_and_recorded(float_run, tmp_path):
    shutil.copytree(float_run, tmp_path / "run")
    run(tmp_path / "run", **FLOAT, num_epochs=2)
    text = (tmp_path / "run" / "train.log").read_text()
    assert "changed since the checkpoint: config.num_epochs=2 (was 1)" in text
    assert json.loads((tmp_path / "run" / "config.json").read_text())["num_epochs"] == 2


def test_a_complete_run_keeps_the_config_that_it_was_trained_with(float_run, tmp_path):
    shutil.copytree(float_run, tmp_path / "run")
    run(tmp_path / "run", **FLOAT, **{"optim.learning_rate": 0.5}, num_epochs=1)
    before = float_run / "config.json"
    assert (tmp_path / "run" / "config.json").read_bytes() == before.read_bytes()


def test_a_run_of_an_earlier_version_goes_on(float_run, tmp_path):
    """Without checksums, and with a description that lacks a newer field and has one that is gone."""
    workdir = tmp_path / "run"
    shutil.copytree(float_run, workdir)
    step = workdir / "checkpoints" / "3"
    (step / "checksums.json").unlink()
    meta = json.loads((step / "meta" / "metadata").read_text())
    del meta["config"]["model"]["sync_bn"]
    meta["config"]["model"]["gone"] = 7
    (step / "meta" / "metadata").write_text(json.dumps(meta))
    run(workdir, **FLOAT, num_epochs=2)
    text = (workdir / "train.log").read_text()
    assert "continuing from step 3 of 6" in text and f"{step} has no checksums" in text
    assert 6 in kept(workdir)
    with Checkpoints(workdir, read_only=True) as checkpoints:
        assert "gone" not in checkpoints.meta(6)["config"]["model"]
