"""A network of the user's own, in a file, goes through the same commands as ours."""

import json
import sys
import textwrap

import jax
import numpy as np
import pytest
from flax import nnx

from qresnet_jax.commands.export import export_run
from qresnet_jax.errors import ConfigError, ExportError
from qresnet_jax.models.networks import create_model
from qresnet_jax.report.report import write_report
from qresnet_jax.ship.load import load_packed
from qresnet_jax.train import parts
from qresnet_jax.train.evaluator import evaluate_checkpoint, fold_run, restore_run
from tests.train.tiny_runs import configuration, lines, run, tiny_data, without_speed

SOURCE = """
import jax.numpy as jnp
from flax import nnx

from qresnet_jax import nn as qnn


class Net(nnx.Module):
    def __init__(self, config, rngs):
        self.first = qnn.StemConv(config.in_channels, 8, 3, rngs=rngs)
        self.norm, self.act = qnn.BatchNorm(8, rngs=rngs), qnn.activation(config.activation, config.act_bits[0])
        self.conv, self.norm2 = qnn.BinaryConv(8, 12, 3, 2, rngs=rngs), qnn.BatchNorm(12, rngs=rngs)
        self.head = qnn.Classifier(12, config.num_classes, rngs=rngs)

    def __call__(self, x):
        x = self.act(qnn.relu(self.norm(self.first(x))))
        return self.head(qnn.global_mean(qnn.relu(qnn.to_stream(self.norm2(self.conv(x))))))


class Unshippable(Net):
    def __call__(self, x):
        return self.head(jnp.mean(self.first(x), (1, 2)))


def net(config, *, rngs):
    return Net(config, rngs)


def unshippable(config, *, rngs):
    return Unshippable(config, rngs)


def number(config, *, rngs):
    return 7
"""


@pytest.fixture(autouse=True, scope="module")
def only_tiny_data():
    with tiny_data():
        yield


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("own") / "network.py"
    path.write_text(textwrap.dedent(SOURCE))
    return path


@pytest.fixture(scope="module")
def trained(source, tmp_path_factory):
    """`(config, workdir)` of a run of 3 epochs."""
    workdir = tmp_path_factory.mktemp("run")
    run(workdir, **{"model.name": f"{source}:net"})
    return configuration(**{"model.name": f"{source}:net"}), workdir


def test_it_trains_and_is_measured_as_it_ships(trained):
    records = lines(trained[1])
    assert all(np.isfinite(line["train_loss"]) for line in records if "train_loss" in line)
    assert {"flips/conv", "alpha/act", "saturation/act", "occupancy/act/3"} <= records[0].keys()
    measured = evaluate_checkpoint(*trained)
    assert measured["shipped_accuracy"] == records[-1]["test_accuracy"]


def test_it_continues_to_the_bit(trained, tmp_path):
    changes = {"model.name": trained[0].model.name, "optim.schedule": "constant"}
    run(tmp_path / "whole", **changes)
    run(tmp_path / "cut", **changes, num_epochs=1)
    run(tmp_path / "cut", **changes)
    whole, cut = (
        [
            {k: v for k, v in line.items() if not k.startswith("test_")}
            for line in without_speed(lines(tmp_path / name))
        ]
        for name in ("whole", "cut")
    )
    assert whole == cut


def test_it_is_reported_and_exported(trained):
    config, workdir = trained
    text = write_report(config, workdir).read_text()
    assert "| conv | 3x3x8x12 | 1 | 2 |" in text and "| head |" in text
    (path,) = export_run(config, workdir)
    network = load_packed(path, engine="numpy")
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1), np.uint8)
    for engine in ("jax", "c"):
        np.testing.assert_array_equal(load_packed(path, engine=engine).logits(images), network.logits(images))
    assert [node.name for node in fold_run(restore_run(config, workdir)).nodes if node.name] == [
        "first",
        "conv",
        "head",
    ]


def test_the_description_names_it(trained):
    assert f"network: {trained[0].model.name}, 1-bit weights" in (trained[1] / "train.log").read_text()
    assert json.loads((trained[1] / "config.json").read_text())["model"]["name"] == trained[0].model.name


def test_a_float_network_of_ones_own_is_measured_in_float(source, tmp_path):
    metrics = run(tmp_path, **{"model.name": f"{source}:net", "model.activation": "none", "num_epochs": 1})
    assert 0 <= metrics["test_accuracy"] <= 1
    with pytest.raises(ExportError, match="act has float activations"):
        fold_run(restore_run(configuration(), tmp_path))


def test_what_cannot_ship_is_refused_before_it_trains(source, tmp_path):
    with pytest.raises(ExportError, match="the network uses an operation of jax.numpy"):
        run(tmp_path, **{"model.name": f"{source}:unshippable"})
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    "name, changes, message",
    [
        ("{}:missing", {}, "cannot be loaded .*missing"),
        ("{}:number", {}, "must return a Flax NNX module, got int"),
        ("no_such_package.net:f", {}, "cannot be loaded .*no_such_package"),
        ("nowhere.py:f", {}, "there is no file /.*nowhere.py: give FILE.py:f"),
        ("resnet18", {}, "resnet, vgg_small, mlp, mobilenet, or a network of your own as FILE.py:FUNCTION"),
        ("{}:net", {"optim.float_epochs": 1}, "float twin"),
        ("{}:net", {"remat": "block"}, "set config.remat to none"),
    ],
)
def test_mistakes_are_named(name, changes, message, source, tmp_path):
    with pytest.raises(ConfigError, match=message):
        run(tmp_path, **{"model.name": name.format(source)}, **changes)


def test_a_module_of_a_package_is_found(source, monkeypatch):
    monkeypatch.syspath_prepend(source.parent)
    config = configuration(**{"model.name": "network:net"})
    assert type(create_model(config.model, rngs=nnx.Rngs(0))).__name__ == "Net"


def test_our_networks_are_still_ours():
    assert type(create_model(configuration().model, rngs=nnx.Rngs(0))).__name__ == "ResNet"
    with pytest.raises(ValueError, match="create_model takes the model part of a config"):
        create_model(configuration(), rngs=nnx.Rngs(0))
    assert parts.create_model is create_model and jax.device_count() > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def net(config, *, rngs)\n    return 7", "net.py, line 1: SyntaxError: expected ':'"),
        ("import nothing_of_this_name", "net.py, line 1: ModuleNotFoundError: No module named 'nothing_of"),
        (
            "def net(config):\n    return 7",
            "net.py: TypeError: net.. got an unexpected keyword argument 'rngs'",
        ),
        ("def net(config, *, rngs):\n    return config.nothing", "net.py, line 2: AttributeError: .*nothing"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_line(text, message, tmp_path):
    (tmp_path / "net.py").write_text(text)
    config = configuration(**{"model.name": f"{tmp_path}/net.py:net"})
    with pytest.raises(ConfigError, match=message):
        create_model(config.model, rngs=nnx.Rngs(0))


def test_a_module_in_the_current_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "net_of_mine.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place not in ("", str(tmp_path))])
    config = configuration(**{"model.name": "net_of_mine:net"})
    assert create_model(config.model, rngs=nnx.Rngs(0)).head.in_features == 12
