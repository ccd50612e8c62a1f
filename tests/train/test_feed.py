"""What the feed hands to a step: the training set in the order of the epoch that the step belongs to."""

import jax
import numpy as np

from qresnet_jax.config import default_config
from qresnet_jax.data import ImageDataset
from qresnet_jax.data.order import epoch_order
from qresnet_jax.pixels import normalize
from qresnet_jax.train.feed import ResidentFeed
from qresnet_jax.train.parallel import device_mesh

RNG = np.random.default_rng(0)
IMAGES, LABELS = RNG.integers(0, 256, (10, 8, 8, 1), np.uint8), RNG.integers(0, 2, 10, np.int32)
DATASET = ImageDataset(train=(IMAGES, LABELS), test=(IMAGES, LABELS), class_names=("a", "b"))


def feed():
    config = default_config()
    config.seed, config.batch_size = 5, 4
    return ResidentFeed(DATASET, config, device_mesh(jax.devices()[:1]))


def test_steps_of_an_epoch_share_its_order_and_epochs_differ():
    of = feed()
    orders = [np.asarray(of(step).order) for step in range(6)]
    for step, order in enumerate(orders):
        np.testing.assert_array_equal(order, epoch_order(5, step // 3, 10))
    assert (orders[2] != orders[3]).any()
    np.testing.assert_array_equal(of(1).order, orders[1])  # a feed may go back


def test_images_and_labels_are_the_sets_own():
    data = feed()(0)
    np.testing.assert_array_equal(data.images, IMAGES)
    np.testing.assert_array_equal(data.labels, LABELS)
    np.testing.assert_array_equal(data.mean, DATASET.mean)


def test_the_sample_is_the_beginning_of_the_set_as_the_network_sees_it():
    np.testing.assert_array_equal(feed().sample, normalize(IMAGES, DATASET.mean.astype(np.float32)))
