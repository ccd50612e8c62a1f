import dataclasses

import numpy as np
import pytest

from qresnet_jax.errors import ExportError
from qresnet_jax.ship import agreement
from qresnet_jax.ship.agreement import Agreement
from qresnet_jax.ship.fold import fold


def result(images, others=0, moved=0):
    return Agreement(images, 1 - others / images, 0.5, 0.5 + moved / images, 0.0, 0.0)


@pytest.mark.parametrize(
    "images, others, moved, sufficient",
    [
        (10_000, 0, 0, True),
        (10_000, 20, 10, True),
        (10_000, 20, -10, True),
        (10_000, 21, 0, False),
        (10_000, 20, 11, False),
        (10_000, 20, -11, False),
        (360, 1, 1, True),  # digits: all images but one
        (360, 2, 0, False),
        (360, 1, -2, False),
        (1000, 2, 1, True),
        (1, 1, 1, True),
    ],
)
def test_what_may_ship(images, others, moved, sufficient):
    assert result(images, others, moved).is_sufficient == sufficient


def planted(network, name, shift):
    """`network` with the thresholds in front of a convolution moved."""
    changed = list(network.nodes)
    conv = next(node for node in changed if node.name == name)
    (i,) = conv.inputs
    changed[i] = dataclasses.replace(changed[i], thresholds=changed[i].thresholds + np.int32(shift))
    return dataclasses.replace(network, nodes=tuple(changed))


@pytest.fixture
def measured(trained_named, make_images):
    model, network = trained_named("basic pact")
    images = make_images(40, (8, 8, 3), seed=5)
    return model, network, images, np.arange(40) % 5


def test_an_intact_network_agrees(measured):
    model, network, images, labels = measured
    found = agreement.measure(model, network, images, labels)
    assert (found.images, found.same_class) == (40, 1.0)
    assert found.accuracy_simulation == found.accuracy_integer
    assert found.largest_logit_difference < 1e-5  # float32's share of a logit
    agreement.require(found, model, network, images)
    assert "100.00 % of 40 images in the class of the simulation" in str(found)


@pytest.mark.parametrize("block", ["stages.0.0", "stages.1.0"])
def test_a_planted_fault_is_refused_and_its_layer_named(measured, block):
    model, network, images, labels = measured
    network = planted(network, f"{block}.convs.1", 9)
    drifts = agreement.drift(model, network, images)
    assert list(drifts) == ["stem", "stages.0.0", "stages.1.0", "classifier"]
    assert {name for name, share in drifts.items() if share > 1e-6} == {block}
    found = agreement.measure(model, network, images, labels)
    assert found.mean_logit_difference > 0
    assert found.same_class < 0.998
    with pytest.raises(ExportError, match=f"falls short.*drifts most is {block}, by .*Fold the checkpoint"):
        agreement.require(found, model, network, images)


def test_a_fault_in_the_classifier_is_the_classifiers(measured):
    model, network, images, _ = measured
    last = network.nodes[-1]
    wrong = dataclasses.replace(last, bias=last.bias + np.int32(1000))
    network = dataclasses.replace(network, nodes=(*network.nodes[:-1], wrong))
    drifts = agreement.drift(model, network, images)
    assert max(drifts, key=drifts.get) == "classifier"


def test_another_mean_is_seen_as_a_network_of_its_own(measured):
    # Both sides take the network's mean: what they disagree on is the network, not the pixels.
    model, network, images, labels = measured
    stem = dataclasses.replace(network.nodes[0], double_mean=np.zeros(3, np.int16))
    network = dataclasses.replace(network, nodes=(stem, *network.nodes[1:]))
    assert agreement.measure(model, network, images, labels).same_class == 1.0


def test_a_float_stream_agrees_less_and_the_error_says_how_to_train(build_model, make_images):
    model = build_model(stream_fraction_bits=None)
    with pytest.warns(UserWarning, match="float stream"):
        network = fold(model)
    images = make_images(40, (8, 8, 3), seed=6)
    found = agreement.measure(model, network, images, np.zeros(40, int))
    assert found.mean_logit_difference > 0
    assert found.same_class > 0.7  # chance is 0.2
    drifts = agreement.drift(model, network, images)
    assert 0 < max(drifts.values()) < 0.2
    short = dataclasses.replace(found, same_class=0.9)
    with pytest.raises(ExportError, match="config.model.stream_fraction_bits=8"):
        agreement.require(short, model, network, images)


@pytest.mark.parametrize("images, labels", [(0, 0), (3, 2)])
def test_images_need_labels(measured, images, labels):
    model, network, *_ = measured
    with pytest.raises(ValueError, match=f"got {images} images, {labels} labels"):
        agreement.measure(model, network, np.zeros((images, 8, 8, 3), np.uint8), np.zeros(labels, int))


@pytest.mark.parametrize("name", ["preact_basic lsq", "basic lsq imagenet"])
def test_the_layers_of_other_networks_can_be_compared(name, trained_named, make_images):
    model, network = trained_named(name)
    images = make_images(4, (network.height, network.width, network.channels))
    drifts = agreement.drift(model, network, images)
    assert max(drifts.values()) < 1e-6
    assert list(drifts) == ["stem", "stages.0.0", "stages.1.0", "classifier"]
