import json
import statistics

import pytest

from qresnet_jax.config import flatten
from qresnet_jax.system.config_files import load_config

VALIDATION, TEST = {0: [0.5, 0.9], 1: [0.8, 0.7]}, {0: 0.85, 1: 0.75}


@pytest.fixture
def accuracy(benchmark):
    return benchmark("accuracy")


@pytest.fixture
def make_run(tmp_path):
    """`make_run(seed, finished=True, **changes of the config)`: the workdir of a digits run."""

    def make(seed, finished=True, **changes):
        config = load_config("digits")
        config.seed = seed
        for name, value in changes.items():
            config.update_from_flattened_dict({name.replace("__", "."): value})
        workdir = tmp_path / f"run_{len(list(tmp_path.iterdir()))}"
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps(config.to_dict()))
        records = [{"step": 10 * i, "eval_accuracy": x} for i, x in enumerate(VALIDATION[seed], 1)]
        signs = {"flips/a": 0.1, "dead_band/a": 0.2, "held_back/a": 0.0, "never_flipped/a": 0.5}
        records = [record | signs | {"images_per_second": 100.0} for record in records]
        if finished:
            records[-1]["test_accuracy"] = TEST[seed]
        (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        (workdir / "train.log").write_text("2026-11-28 23:59:00 first\nno time\n2026-11-29 00:10:00 last\n")
        return str(workdir)

    return make


def test_seeds_become_one_row(accuracy, benchmark, make_run, tmp_path, capsys):
    runs = [make_run(0), make_run(1)]
    assert accuracy.main(["accuracy_digits", *runs, f"--save={tmp_path}/results"]) == 0
    assert (
        "| W1A2 | 60 | 0, 1 | 85.00 ± 7.07 % | 80.00 ± 7.07 % | 75.00 % | 2026-11-29 | `qresnet --config=digits` |"
        in capsys.readouterr().out
    )
    (found,) = benchmark("results").load("accuracy_digits", tmp_path / "results")["measurements"].values()
    assert found["figures"]["validation"] == {
        "mean": pytest.approx(0.85), "sd": statistics.stdev([0.9, 0.8]), "worst": 0.8, "each": [0.9, 0.8],
    }  # fmt: skip
    assert found["figures"]["test"]["worst"] == 0.75
    assert found["figures"]["signs"] == {
        "flips": 2.0,
        "dead_band": 0.2,
        "held_back": 0.0,
        "never_flipped": 0.5,
    }
    assert (found["date"], found["command"]) == ("2026-11-29", ["qresnet --config=digits"])


def test_recipes_have_a_label_and_stand_beside_their_float_twin(
    accuracy, benchmark, make_run, tmp_path, capsys
):
    name, save = "recipes_cifar10_jpeg", f"--save={tmp_path}/results"
    float_twin = make_run(0, model__weight_bits=32, model__activation="none")
    assert accuracy.main([name, float_twin, "--label=float", save]) == 0
    assert accuracy.main([name, make_run(1), "--label=from scratch", save]) == 0
    found = benchmark("results").load(name, tmp_path / "results")["measurements"]
    assert [one["figures"]["label"] for one in found.values()] == ["float", "from scratch"]
    capsys.readouterr()
    table = benchmark("templates.accuracy").recipes(found)
    batch = load_config("digits").batch_size
    minutes = f"{20 * batch / 100 / 60:.0f} min"  # 20 steps at 100 images/s
    assert (
        f"| ResNet-8 W1A2 | 60 | from scratch | 1 | 80.00 % | 75.00 % | 10.0 | 2.00 | 50.0 % | {minutes} |"
        in table
    )
    assert f"| ResNet-8 float | 60 | float | 0 | 90.00 % | 85.00 % |  | 2.00 | 50.0 % | {minutes} |" in table


def test_a_label_is_for_recipes_only(accuracy, make_run, tmp_path, capsys):
    for arguments in (["recipes_cifar10_jpeg"], ["accuracy_digits", "--label=x"]):
        with pytest.raises(SystemExit):
            accuracy.main([arguments[0], make_run(0), *arguments[1:], f"--save={tmp_path}/results"])
        assert "--label" in capsys.readouterr().err


def test_runs_of_other_settings_become_rows_of_their_own(accuracy, make_run):
    float_twin = make_run(0, model__weight_bits=32, model__activation="none")
    found = accuracy.measurements([make_run(0), float_twin], commit="abc")
    shown = {one["figures"]["network"]: one["command"][0] for one in found.values()}
    changes = "--config.model.activation=none --config.model.weight_bits=32"
    assert shown == {"W1A2": "qresnet --config=digits", "float": f"qresnet --config=digits {changes}"}
    assert {one["commit"] for one in found.values()} == {"abc"}


@pytest.mark.parametrize("name", ["digits", "fashion_mnist_w1a2", "fashion_mnist_fp32", "cifar10_baseline"])
def test_the_command_of_a_shipped_config_is_its_name(accuracy, name):
    known = ("digits", "fashion_mnist_w1a2", "fashion_mnist_fp32", "cifar10_baseline", "cifar10_w1a2")
    shipped = {other: flatten(load_config(other)) for other in known}
    fields = json.loads(json.dumps(flatten(load_config(name))))  # as config.json has them
    fields["seed"], fields["model.act_bits"] = 3, [2, 2, 4]
    assert accuracy.command(fields, shipped) == f'qresnet --config={name} --config.model.act_bits="(2,2,4)"'


@pytest.mark.parametrize(
    "fields, expected",
    [
        ((1, "pact", [2, 2, 2]), "W1A2"),
        ((1, "lsq", [2, 2, 4]), "W1A2/2/4"),
        ((32, "none", [2, 2, 2]), "float"),
        ((1, "none", [2, 2, 2]), "W1A32"),
        ((32, "pact", [2, 2, 2]), "W32A2"),
    ],
)
def test_networks_are_named_by_their_bits(accuracy, fields, expected):
    names = ("model.weight_bits", "model.activation", "model.act_bits")
    assert accuracy.network_name(dict(zip(names, fields, strict=True))) == expected


def test_unfinished_runs_are_refused_and_nothing_is_written(accuracy, make_run, tmp_path, capsys):
    runs = [make_run(0), make_run(1, finished=False)]
    assert accuracy.main(["accuracy_digits", *runs, f"--save={tmp_path}/results"]) == 2
    assert f"{runs[1]} is not finished" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()


def test_a_run_without_times_is_refused(accuracy, make_run, tmp_path, capsys):
    run = make_run(0)
    (tmp_path / "run_0" / "train.log").unlink()
    assert accuracy.main(["accuracy_digits", run, f"--save={tmp_path}/results"]) == 2
    assert "train.log is missing or has no times" in capsys.readouterr().err


def test_the_command_begins_with_a_config_of_the_same_data(accuracy):
    """Also where a config of other data differs in fewer fields."""
    flags = {"optim.warmup_epochs": 0.3, "num_epochs": 10, "data.crop_padding": 2, "model.depth": 8}
    fields = flatten(load_config("cifar10_jpeg_w1a2")) | flags
    shipped = {name: flatten(load_config(name)) for name in ("fashion_mnist_w1a2", "cifar10_jpeg_w1a2")}
    line = accuracy.command(fields, shipped)
    assert line.startswith("qresnet --config=cifar10_jpeg_w1a2 ")
    assert sorted(line.split()[2:]) == sorted(f"--config.{name}={value}" for name, value in flags.items())
