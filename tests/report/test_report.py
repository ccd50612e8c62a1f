"""Reports of small runs: the file's promises against what is in the workdir, and what a mistake leaves behind."""

import json
import re
import shutil

import jax
import PIL.Image
import pytest

import qresnet_jax
from qresnet_jax.config import from_json
from qresnet_jax.errors import PackedError, UserError
from qresnet_jax.report import report
from qresnet_jax.report.report import report_packed, write_report
from qresnet_jax.ship.costs import as_text, network_table
from qresnet_jax.ship.fold import fold
from qresnet_jax.ship.packed.file import save_packed
from qresnet_jax.train.evaluator import fold_run, restore_run

PICTURES = {"curves", "flips", "hysteresis", "latents", "clipping", "occupancy"}


def small(**model):
    config = qresnet_jax.default_config()
    config.data.name, config.data.crop_padding, config.data.flip = "digits", 0, False
    config.model.depth, config.model.in_channels = 8, 1
    config.model.update(model)
    config.batch_size, config.num_epochs, config.log_every_steps = 32, 2, 8
    config.optim.hysteresis.threshold = 0.02
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    config, workdir = small(), tmp_path_factory.mktemp("runs") / "small_run"
    return config, workdir, qresnet_jax.train_and_evaluate(config, workdir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def reported(trained, tmp_path_factory):
    """`(workdir, text, metrics)` of a report that was written while no data set could be loaded."""
    config, workdir, metrics = trained
    workdir = shutil.copytree(workdir, tmp_path_factory.mktemp("reported") / workdir.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("qresnet_jax.data.sets.load_dataset", None)
        patch.setattr("qresnet_jax.train.evaluator.load_dataset", None)
        path = write_report(config, workdir)
    assert path == workdir / "report.md"
    return workdir, path.read_text(), metrics


@pytest.fixture
def run(reported, trained, tmp_path):
    """A config and a copy of its reported run."""
    return trained[0], shutil.copytree(reported[0], tmp_path / "small_run")


def test_settings_that_changed_after_the_best_checkpoint_are_told_apart_from_its_own(run):
    config, workdir = run
    path = workdir / "config.json"
    saved = json.loads(path.read_text())
    saved["num_epochs"], saved["export"]["format"], saved["gone"] = 5, "onnx", 1
    path.write_text(json.dumps(saved))
    text = write_report(config, workdir).read_text()
    assert "| `num_epochs` | `2`, not `200` |" in text
    assert "After this checkpoint the run went on with `config.num_epochs=5 (was 2)`.\n" in text


def test_a_report_says_what_came_out(reported):
    workdir, text, metrics = reported
    assert "After this checkpoint" not in text
    assert text.startswith("# small_run\n")
    step = metrics["test_of_step"]
    assert f"**{100 * metrics['test_accuracy']:.2f} %**, of the checkpoint at step {step}" in text
    best = max(json.loads(line).get("eval_accuracy", 0) for line in (workdir / "metrics.jsonl").open())
    assert f"| Best validation accuracy | {100 * best:.2f} %, at step {step} |" in text
    assert "| Hardware | 1 x cpu" in text and "| Data | digits, 1294 train" in text
    assert re.search(r"\| Trained \| \d{4}-\d\d-\d\d \d\d:\d\d to ", text)
    assert "stages.2.0.project" in text


def test_the_promised_bytes_are_those_of_the_exported_file(reported, trained, tmp_path):
    workdir, text, _ = reported
    save_packed(fold_run(restore_run(trained[0], workdir)), tmp_path / "model")
    size = f"{(tmp_path / 'model').stat().st_size:,}"
    assert f"| Packed file | {size} bytes" in text and f"{size} as a packed file" in text


def test_changed_settings_come_first(reported):
    pattern = re.compile(r"## Settings\n(.*)<details>(.*)</details>", re.DOTALL)
    changed, unchanged = pattern.search(reported[1]).groups()
    assert "| `data.name` | `'digits'`, not `'cifar10'` |" in changed
    assert "`optim.hysteresis.threshold` | `0.02`, not `0.0`" in changed
    assert "`optim.momentum`" in unchanged and "`optim.momentum`" not in changed
    assert changed.count("not `") == 9 and "`data.name`" not in unchanged


def test_pictures_are_there_and_shown(reported):
    workdir, text, _ = reported
    assert set(re.findall(r"!\[(\w+)\]\(plots/\1\.png\)", text)) == PICTURES
    assert {path.stem for path in (workdir / "plots").iterdir()} == PICTURES
    for path in (workdir / "plots").iterdir():
        with PIL.Image.open(path) as image:
            image.load()
            assert image.size[0] == 800


def test_a_report_of_an_unfinished_run_replaces_an_earlier_one(run):
    config, workdir = run
    (workdir / "train.log").unlink()
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").open()]
    kept = [{k: v for k, v in r.items() if not k.startswith(("test_", "occupancy"))} for r in lines]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in kept))
    text = write_report(config, workdir).read_text()
    assert "| Test accuracy | not measured: training is not complete |" in text
    assert "Hardware" not in text and "Trained" not in text
    assert "occupancy" not in text and not (workdir / "plots" / "occupancy.png").exists()


def test_a_report_without_hysteresis_does_not_speak_of_it(run):
    config, workdir = run
    assert "Between the thresholds both signs occur" in (workdir / "report.md").read_text()
    trained = restore_run(config, workdir)
    trained.meta["config"]["optim"]["hysteresis"]["threshold"] = 0.0
    trained = trained._replace(config=from_json(trained.meta["config"]))
    records = [{"step": 1, "train_loss": 1.0, "never_flipped/stages.0.0.convs.0": 1.0}]
    text = report._markdown(trained.config, trained, records, workdir, ["hysteresis", "latents"])
    assert "the loop" not in text and "both signs" not in text and "crossed 0." in text
    (advice,) = re.findall(r"- `stages.0.0.convs.0`.*", text)
    assert "hysteresis" not in advice and "optim.learning_rate" in advice


def test_a_report_is_written_whole_or_not_at_all(run, monkeypatch):
    config, workdir = run
    shutil.rmtree(workdir / "plots")
    (workdir / "report.md").unlink()
    before = sorted(workdir.rglob("*"))

    def fail(*_):
        raise RuntimeError("no picture")

    monkeypatch.setattr(report.plots, "occupancy", fail)
    with pytest.raises(RuntimeError, match="no picture"):
        write_report(config, workdir)
    assert sorted(workdir.rglob("*")) == before


def test_the_report_is_of_the_network_that_was_trained_whatever_the_config_says(run):
    config, workdir = run
    text = write_report(config, workdir).read_text()
    assert write_report(small(depth=14, act_bits=(4, 4, 4)), workdir).read_text() == text


def test_mistakes_are_named(run, tmp_path):
    config, workdir = run
    (workdir / "report.md").unlink()
    with pytest.raises(UserError, match="no checkpoint in .*nowhere.*--workdir"):
        write_report(config, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
    (workdir / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="metrics.jsonl is missing or empty.*--workdir"):
        write_report(config, workdir)
    assert not (workdir / "report.md").exists()


@pytest.mark.slow
def test_a_float_run_has_no_pictures_of_signs_and_levels(tmp_path):
    config = small(weight_bits=32, activation="none")
    config.num_epochs, config.data.holdout = 1, 0.0
    qresnet_jax.train_and_evaluate(config, tmp_path, devices=jax.devices()[:1])
    text = write_report(config, tmp_path).read_text()
    assert re.findall(r"!\[(\w+)\]", text) == ["curves"]
    assert "- Nothing unusual, but neither signs nor quantized activations were measured.\n" in text
    assert "none: a float network has no integer form" in text and "validation accuracy" not in text
    assert "| 32 | 32 |" in text


def test_a_packed_file_has_a_table(make_model, tmp_path):
    network = fold(make_model(depth=8), image_shape=(8, 10))
    save_packed(network, tmp_path / "x")
    assert report_packed(tmp_path / "x") == as_text(network_table(network), "weights")
    size = f"{(tmp_path / 'x').stat().st_size:,}"
    assert size in report_packed(tmp_path / "x") and size in report_packed(tmp_path / "x", (32, 32))


def test_a_packed_file_for_any_size_needs_one(make_model, tmp_path):
    network = fold(make_model(depth=8))
    save_packed(network, tmp_path / "x")
    with pytest.raises(UserError, match="any size: give the height and width"):
        report_packed(tmp_path / "x")
    assert report_packed(tmp_path / "x", (8, 8)) == as_text(network_table(network, (8, 8)), "weights")
    with pytest.raises(PackedError):
        report_packed(tmp_path / "y")
