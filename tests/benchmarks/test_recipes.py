import json

import pytest

from qresnet_jax import load_config
from qresnet_jax.config import flatten, validate


@pytest.fixture
def recipes(benchmark):
    return benchmark("recipes")


@pytest.mark.parametrize("dataset", ["cifar10_jpeg", "fashion_mnist"])
@pytest.mark.parametrize("epochs", [2, 30, 200])
def test_every_variant_is_a_valid_config_with_as_many_epochs(recipes, dataset, epochs):
    found = {}
    for label, (name, options) in recipes.variants(dataset, epochs).items():
        config = load_config(name)
        config.update_from_flattened_dict(options)
        validate(config)
        found[label] = flatten(config)
        assert found[label]["num_epochs"] == epochs
    assert found["our recipe"]["optim.float_epochs"] == epochs // 2
    assert found["float twin"]["model.weight_bits"] == 32


def test_the_recipe_of_the_original_is_that_of_its_config(recipes):
    original = flatten(load_config("cifar10_baseline"))
    assert {name: original[name] for name in recipes.ORIGINAL} == recipes.ORIGINAL


def test_a_run_is_finished_when_it_has_its_test_accuracy(recipes, tmp_path):
    assert not recipes.is_finished(tmp_path)
    lines = [json.dumps({"step": 1, "loss": 1.0})]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert not recipes.is_finished(tmp_path)
    lines.append(json.dumps({"step": 2, "test_accuracy": 0.5}))
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    assert recipes.is_finished(tmp_path)


def test_all_runs_of_a_seed_come_first_and_each_row_has_all_seeds_so_far(recipes, tmp_path, monkeypatch):
    calls, rows, done = [], [], set()

    def train(config, options, workdir, seconds):
        calls.append((config, options["seed"], seconds))
        if len(calls) == 5:
            return False
        done.add(workdir)
        return True

    monkeypatch.setattr(recipes, "train", train)
    monkeypatch.setattr(recipes, "is_finished", lambda workdir: workdir in done)
    monkeypatch.setattr(
        recipes, "write_row", lambda dataset, label, dirs, folder: rows.append((label, len(dirs)))
    )
    command = ["fashion_mnist", "--epochs=4", "--seeds=2", f"--workdir={tmp_path}"]
    recipes.main(command)
    assert [seed for _, seed, _ in calls] == [0, 0, 0, 1, 1]
    assert rows == [("our recipe", 1), ("float twin", 1), ("recipe of the original", 1), ("our recipe", 2)]
    recipes.main([*command, "--minutes=5"])
    assert [seed for _, seed, _ in calls[5:]] == [1, 1]
    assert all(0 < seconds <= 300 for *_, seconds in calls[5:])
    assert rows[4:] == [("float twin", 2), ("recipe of the original", 2)]


def test_the_archive_is_asked_for_before_anything_is_trained(recipes, capsys):
    with pytest.raises(SystemExit):
        recipes.main(["cifar10_jpeg"])
    assert "--raw-dir" in capsys.readouterr().err
