"""Hands each step what it reads: the training set, or its part of it, on the devices."""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from qresnet_jax.data import ImageDataset, Split, StreamedDataset
from qresnet_jax.data.order import epoch_order, steps_per_epoch
from qresnet_jax.data.streaming.stream import Stream
from qresnet_jax.pixels import normalize
from qresnet_jax.system.machine import memory
from qresnet_jax.train.batches import ResidentData, StreamedData, TrainData
from qresnet_jax.train.parallel import replicate
from qresnet_jax.train.step import AXIS

DIAGNOSED_IMAGES = 128  # of the training set; the activations are measured in a forward pass over them


class Feed(Protocol):
    """Maps a step, counted from the start of training, to what it and those that are dispatched with it read."""

    @property
    def sample(self) -> jax.Array:
        """The first images of the training set, as the network's input, float32 `[DIAGNOSED_IMAGES, H, W, C]`."""

    def __call__(self, step: int) -> TrainData:
        """Returns the data of the steps from `step` on, up to the end of its epoch at most."""

    def close(self) -> None:
        """Ends the processes and threads that read ahead."""


def resident_bytes(mesh: Mesh) -> int:
    """Returns how many bytes of pixels may be held in memory: half of what there is, on the devices and on this machine.

    A CPU's devices share the memory of the machine, and each has its own copy, beside the one that was read.
    """
    devices = [device for device in mesh.devices.flat if device.process_index == jax.process_index()]
    limit = memory() // 2
    if devices[0].platform == "cpu":
        return limit // (1 + len(devices))
    known = [(device.memory_stats() or {}).get("bytes_limit", limit) for device in devices]
    return min(limit, min(known) // 2)


def _constants(mean: np.ndarray, seed: int, mesh: Mesh) -> tuple[jax.Array, jax.Array]:
    """Returns the pixel means and the key of the augmentation, on all devices."""
    _, key = jax.random.split(jax.random.key(seed))  # other numbers than those of the first weights
    means, key = replicate((jnp.asarray(mean, jnp.float32), key), mesh)
    return means, key


class ResidentFeed:
    """A feed of a set that lies on every device as a whole; only the order of its images depends on the epoch."""

    def __init__(self, dataset: ImageDataset, config: ConfigDict, mesh: Mesh) -> None:
        self._seed, self._mesh = config.seed, mesh
        self._count = dataset.train.num_images
        self._steps_per_epoch = steps_per_epoch(self._count, config.batch_size)
        self._mean, self._key = _constants(dataset.mean, config.seed, mesh)
        self._images, self._labels = replicate(tuple(dataset.train), mesh)
        self._epoch, self._order = -1, jnp.zeros(0, jnp.int32)
        self.sample = normalize(self._images[:DIAGNOSED_IMAGES], self._mean)

    def __call__(self, step: int) -> TrainData:
        """Returns the whole set, and the order of the epoch of `step`."""
        if (epoch := step // self._steps_per_epoch) != self._epoch:
            self._epoch = epoch
            self._order = replicate(epoch_order(self._seed, epoch, self._count), self._mesh)
        return ResidentData(self._images, self._labels, self._order, self._mean, self._key)

    def close(self) -> None:
        """Does nothing: nothing is read ahead."""


class StreamingFeed:
    """A feed of a set that stays on the disk: the next batches are read and put on the devices while a step runs.

    Each process reads the rows of a batch that its own devices need.
    """

    def __init__(self, dataset: StreamedDataset, config: ConfigDict, mesh: Mesh, steps: int) -> None:
        self._sharding = NamedSharding(mesh, PartitionSpec(AXIS))
        self._batch_size, self._workers = config.batch_size, dataset.train.workers
        self._mean, self._key = _constants(dataset.mean, config.seed, mesh)
        self._batches = dataset.training(config.seed, config.batch_size, self._rows(), steps)
        self._next = -1
        self._stream: Stream[tuple[jax.Array, jax.Array]] | None = None
        first = dataset.train.first(DIAGNOSED_IMAGES)
        self.sample = normalize(replicate(first, mesh), self._mean)

    def _rows(self) -> list[int]:
        rows = np.arange(self._batch_size)
        shares = self._sharding.addressable_devices_indices_map((self._batch_size,)).values()
        return np.unique(np.concatenate([rows[share] for share in shares])).tolist()

    def __call__(self, step: int) -> TrainData:
        """Returns the batch of `step`. Steps that follow each other have been read ahead."""
        if self._stream is None or step != self._next:
            self.close()
            size = len(self._batches.rows) * int(np.prod(self._batches.images.shape))
            self._stream = Stream(self._batches, step, self._workers, size, self._put)
        images, labels = next(self._stream)
        self._next = step + 1
        return StreamedData(images, labels, self._mean, self._key)

    def _put(self, batch: Split) -> tuple[jax.Array, jax.Array]:
        """Puts this process's rows of a batch on its devices."""
        put = functools.partial(jax.make_array_from_process_local_data, self._sharding)
        images, labels = put(batch.images), put(batch.labels)
        return images, labels

    def close(self) -> None:
        """Ends the processes and threads that read ahead."""
        if self._stream is not None:
            self._stream.close()
