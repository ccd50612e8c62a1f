"""The zoo's networks have the accuracy and the size that docs/results.md states."""

import pathlib
import re

import numpy as np
import pytest

import qresnet_jax
from qresnet_jax.data import load_dataset
from qresnet_jax.data.archives import read_raw
from qresnet_jax.ship.load import zoo

PAGE = (pathlib.Path(__file__).parents[2] / "docs" / "results.md").read_text()
ROWS = re.findall(r"^\| `(\w+)` \| `\w+` \| ([\d.]+) % of .*? \| ([\d,]+) \|", PAGE, flags=re.MULTILINE)
STATED = {name: (accuracy, size) for name, accuracy, size in ROWS}
FASHION_MNIST = pathlib.Path("/usr/share/datasets/fashion-mnist")
CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"  # as published


def test_every_network_is_listed():
    assert set(STATED) == set(zoo()) and len(STATED) == 7


@pytest.mark.parametrize("name", STATED)
def test_the_size_is_as_stated(name):
    assert f"{qresnet_jax.load_packed(name, 'numpy').nbytes:,}" == STATED[name][1]


def assert_accuracy(name, images, labels, class_names):
    network = qresnet_jax.load_packed(name)
    assert network.class_names == class_names
    accuracy = np.mean(network.predict(images) == labels)
    assert f"{100 * accuracy:.2f}" == STATED[name][0]


@pytest.mark.parametrize("name", [name for name in STATED if name.startswith("digits")])
def test_the_accuracy_on_digits(name):
    config = qresnet_jax.default_config().data
    config.name = "digits"
    dataset = load_dataset(config)
    assert_accuracy(name, *dataset.test, dataset.class_names)


@pytest.mark.skipif(not FASHION_MNIST.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
@pytest.mark.parametrize("name", [name for name in STATED if name.startswith("fashion_mnist")])
def test_the_accuracy_on_fashion_mnist(name):
    test = read_raw("fashion_mnist", FASHION_MNIST).test
    assert_accuracy(name, test.images, test.labels["label"], tuple(CLOTHES.split(",")))
