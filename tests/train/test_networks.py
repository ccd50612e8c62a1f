"""Runs of our networks besides the ResNet, and of layers that draw random numbers."""

import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn as qnn
from qresnet_jax.config import default_config
from qresnet_jax.config.validation import validate, validate_dataset
from qresnet_jax.errors import ConfigError
from qresnet_jax.models.architecture import OF_ONE_SIZE
from qresnet_jax.report.report import write_report
from qresnet_jax.ship import reference
from qresnet_jax.train.evaluator import fold_run, restore_run
from tests.train.tiny_runs import configuration, lines, run, tiny_data, tiny_set


@pytest.fixture(autouse=True, scope="module")
def only_tiny_data():
    with tiny_data():
        yield


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("vgg_small", "mobilenet")]


@pytest.mark.parametrize("name", ["mlp", *SLOW])
def test_a_network_trains_in_float_first_and_what_is_measured_is_what_ships(name, tmp_path):
    changes = {"model.name": name, "model.image_size": (8, 8), "optim.float_epochs": 1}
    metrics = run(tmp_path, **changes)
    network = fold_run(restore_run(configuration(**changes), tmp_path))
    test = tiny_set(configuration().data).test
    right = reference.logits(network, test.images).argmax(-1) == test.labels
    assert metrics["test_accuracy"] == pytest.approx(np.mean(right))
    assert write_report(configuration(**changes), tmp_path).exists()
    assert name in (tmp_path / "train.log").read_text()


def test_a_network_without_binary_layers_is_reported(tmp_path):
    """A perceptron with one hidden layer has only the first layer and the classifier."""
    changes = {"model.name": "mlp", "model.image_size": (8, 8), "model.act_bits": (2,), "num_epochs": 1}
    run(tmp_path, **changes)
    assert write_report(configuration(**changes), tmp_path).exists()


@pytest.mark.parametrize("name", OF_ONE_SIZE)
def test_a_network_with_dense_layers_knows_the_size_of_its_images(name):
    config = configuration(**{"model.name": name})
    validate(config)
    with pytest.raises(
        ConfigError, match=r"config.model.image_size=\(32, 32\): must be \(8, 8\) for tiny, as"
    ):
        validate_dataset(config, tiny_set(config.data))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.name": "vgg_small", "model.act_bits": (2, 2)}, "must have 3 entries"),
        ({"model.name": "mlp", "model.act_bits": ()}, "must have some entries"),
        (
            {
                "model.name": "vgg_small",
                "model.width": 120,
                "model.act_bits": (8, 8, 8),
                "model.image_size": (8, 8),
            },
            "reach 2[*][*]24",
        ),
        ({"model.name": "mobilenet", "remat": "block"}, "set config.remat to none"),
    ],
)
def test_what_a_network_cannot_have_is_refused(changes, message):
    config = default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(ConfigError, match=message):
        validate(config)


SOURCE = """
from flax import nnx

from qresnet_jax import nn as qnn


class Net(nnx.Module):
    def __init__(self, config, rngs):
        self.first, self.norm, self.act = qnn.StemDense(64, 16, rngs=rngs), qnn.BatchNorm(16, rngs=rngs), qnn.PACT(2)
        self.drop, self.shift, self.head = (
            qnn.Dropout(0.5, rngs=rngs),
            qnn.Shift(16, rngs=rngs),
            qnn.Classifier(16, config.num_classes, rngs=rngs),
        )

    def __call__(self, x):
        x = self.act(self.shift(qnn.relu(self.norm(self.first(qnn.flatten(x))))))
        return self.head(self.drop(x))


def net(config, *, rngs):
    return Net(config, rngs)
"""


def test_dropout_draws_the_same_when_a_run_is_continued(tmp_path):
    source = tmp_path / "net.py"
    source.write_text(SOURCE)
    changes = {"model.name": f"{source}:net", "optim.schedule": "constant"}
    run(tmp_path / "whole", **changes, num_epochs=4)
    for epochs in (2, 4):
        run(tmp_path / "parts", **changes, num_epochs=epochs)
    run(tmp_path / "other", **changes, num_epochs=4, seed=1)
    whole, parts, other = (losses(tmp_path / name) for name in ("whole", "parts", "other"))
    assert whole == parts != other


def losses(workdir):
    return {line["step"]: line["eval_loss"] for line in lines(workdir) if "eval_loss" in line}


def test_training_advances_the_draw_of_dropout():
    layer = qnn.Dropout(0.5, rngs=nnx.Rngs(0))
    layer(np.ones(4, np.float32))
    assert float(layer.draw[...]) == 1
