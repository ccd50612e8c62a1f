import dataclasses

import numpy as np
import pytest

from qresnet_jax.ship import reference
from qresnet_jax.ship.network import IntegerNetwork
from tests.ship.every_node import NODES
from tests.ship.random_networks import random_network

NETWORK = IntegerNetwork(NODES, 8, 0.5)
FREE = [seed for seed in range(200) if random_network(seed)[0].height is None]


def test_channels_classes_and_mean_are_those_of_the_ends():
    assert (NETWORK.channels, NETWORK.classes, NETWORK.mean.tolist()) == (2, 3, [127.5, 9.0])
    assert (NETWORK.stem, NETWORK.classifier) == (NODES[0], NODES[-1])
    assert NETWORK.image_shape == (None, None, 2)
    tied = dataclasses.replace(NETWORK, height=33, width=21)
    assert tied.image_shape == (33, 21, 2)
    assert [value.height.fixed for value in tied.values[-5:]] == [4, 3, 1, 1, 1]


def test_values_are_inferred_once():
    assert NETWORK.values is NETWORK.values


def test_there_are_networks_that_take_no_small_images():
    assert any(random_network(seed)[0].least_size != (1, 1) for seed in FREE)


@pytest.mark.parametrize("seed", FREE)
def test_the_least_images_leave_a_pixel_everywhere_and_smaller_ones_do_not(seed):
    network, _ = random_network(seed)
    height, width = network.least_size

    def takes(*size):
        """Whether its nodes fit, by the rules for images of one size."""
        try:
            return dataclasses.replace(network, height=size[0], width=size[1]).values is not None
        except ValueError as error:
            assert "does not fit" in str(error)
            return False

    images = np.zeros((1, height, width, network.channels), np.uint8)
    assert takes(height, width) and network.takes(images.shape[1:])
    assert reference.logits(network, images).shape == (1, network.classes)
    for smaller in (images[:, 1:], images[:, :, 1:]):
        size = smaller.shape[1:3]
        assert not network.takes(smaller.shape[1:])
        if 0 in size:
            continue
        assert not takes(*size)
        with pytest.raises(
            ValueError, match=f"must have at least {height} x {width} pixels.*got {size[0]} x {size[1]}"
        ):
            reference.logits(network, smaller)


def test_a_network_takes_images_of_its_size_and_channels():
    tied = dataclasses.replace(NETWORK, width=21)
    assert tied.takes((33, 21, 2)) and tied.takes((40, 21, 2))
    assert not any(tied.takes(shape) for shape in [(33, 22, 2), (33, 21, 3), (1, 21, 2)])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"logit_scale": float("nan")}, "logit_scale=nan must be above 0"),
        ({"logit_scale": 0.0}, "logit_scale=0.0 must be above 0"),
        ({"fraction_bits": 16}, "fraction_bits=16 must be 0 to 15"),
        ({"height": 0}, "height=0 must be an integer from 1 to 65535"),
        ({"width": 2**16}, "must be an integer from 1 to 65535"),
        ({"width": 21.0}, "width=21.0 must be an integer from 1 to 65535"),
        ({"class_names": ("a", "b")}, "2 class names for 3 classes"),
        ({"class_names": (0, 1, 2)}, "the class names must be strings, got .0, 1, 2."),
        ({"nodes": NODES[1:]}, "the first node must be the stem"),
        ({"height": 4, "width": 30}, "a window of 2 pixels does not fit 1 pixels"),
    ],
)
def test_impossible_networks_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(NETWORK, **changes)
