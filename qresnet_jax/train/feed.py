"""Hands each step what it reads: the training set, or its part of it, on the devices."""

from typing import Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from ml_collections import ConfigDict

from qresnet_jax.data import ImageDataset
from qresnet_jax.data.order import epoch_order, steps_per_epoch
from qresnet_jax.pixels import normalize
from qresnet_jax.train.batches import ResidentData, TrainData
from qresnet_jax.train.parallel import replicate

DIAGNOSED_IMAGES = 128  # of the training set; the activations are measured in a forward pass over them


class Feed(Protocol):
    """Maps a step, counted from the start of training, to what it and those that are dispatched with it read."""

    @property
    def sample(self) -> jax.Array:
        """The first images of the training set, as the network's input, float32 `[DIAGNOSED_IMAGES, H, W, C]`."""

    def __call__(self, step: int) -> TrainData:
        """Returns the data of the steps from `step` on, up to the end of its epoch at most."""


class ResidentFeed:
    """A feed of a set that lies on every device as a whole; only the order of its images depends on the epoch."""

    def __init__(self, dataset: ImageDataset, config: ConfigDict, mesh: Mesh) -> None:
        self._seed, self._mesh = config.seed, mesh
        self._count = len(dataset.train.labels)
        self._steps_per_epoch = steps_per_epoch(self._count, config.batch_size)
        _, key = jax.random.split(
            jax.random.key(config.seed)
        )  # other numbers than those of the first weights
        mean = jnp.asarray(dataset.mean, jnp.float32)
        self._images, self._labels, self._mean, self._key = replicate((*dataset.train, mean, key), mesh)
        self._epoch, self._order = -1, jnp.zeros(0, jnp.int32)
        self.sample = normalize(self._images[:DIAGNOSED_IMAGES], self._mean)

    def __call__(self, step: int) -> TrainData:
        """Returns the whole set, and the order of the epoch of `step`."""
        if (epoch := step // self._steps_per_epoch) != self._epoch:
            self._epoch = epoch
            self._order = replicate(epoch_order(self._seed, epoch, self._count), self._mesh)
        return ResidentData(self._images, self._labels, self._order, self._mean, self._key)
