"""Which images a step sees: the order of the images, batches and augmentation, as pure functions.

What a step sees depends only on (seed, step): neither on the number of devices or processes, nor on where a run was
interrupted.
"""

from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp


class TrainData(Protocol):
    """What a step reads, apart from the state. It is a pytree of arrays on the devices."""

    @property
    def mean(self) -> jax.Array:
        """The pixel means, float32 `[C]`, multiples of 1/2 in units of pixel values."""

    @property
    def key(self) -> jax.Array:
        """The PRNG key `[]` from which every batch's augmentation is drawn."""

    def share(
        self, step_in_epoch: jax.Array, batch_size: int, shard: jax.Array, num_shards: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns one device's share of a batch as it was stored: uint8 images `[share, H, W, C]` and their labels.

        Args:
          step_in_epoch: int32, from 0.
          batch_size: the number of images over all devices, a multiple of `num_shards`.
          shard: int32, the index of this device.
          num_shards: the number of devices.
        """

    def specs(self, shared: Any, everywhere: Any) -> Any:
        """Returns for each array which of two it is: divided over the devices along its first axis, or whole on each."""


class ResidentData(NamedTuple):
    """The whole training set, which lies on every device, and the order of this epoch (see `TrainData`)."""

    images: jax.Array  # uint8 [N, H, W, C]
    labels: jax.Array  # int32 [N]
    order: jax.Array  # int32 [N], from `data.order.epoch_order`
    mean: jax.Array
    key: jax.Array

    def share(
        self, step_in_epoch: jax.Array, batch_size: int, shard: jax.Array, num_shards: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns the images at one device's positions in the order, and their labels."""
        positions = batch_positions(step_in_epoch, batch_size, shard, num_shards)
        chosen = self.order[positions % len(self.order)]
        return self.images[chosen], self.labels[chosen]

    def specs(self, shared: Any, everywhere: Any) -> Any:
        """Returns that all arrays are whole on each device."""
        return ResidentData(*[everywhere] * 5)


class StreamedData(NamedTuple):
    """The images of one batch, of which each device has its share (see `TrainData`)."""

    images: jax.Array  # uint8 [batch_size, H, W, C]; on a device [share, H, W, C]
    labels: jax.Array  # int32 [batch_size]; on a device [share]
    mean: jax.Array
    key: jax.Array

    def share(
        self, step_in_epoch: jax.Array, batch_size: int, shard: jax.Array, num_shards: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns what the device has."""
        return self.images, self.labels

    def specs(self, shared: Any, everywhere: Any) -> Any:
        """Returns that the images and labels are divided over the devices."""
        return StreamedData(shared, shared, everywhere, everywhere)


def batch_positions(
    step_in_epoch: jax.Array, batch_size: int, shard: jax.Array, num_shards: int
) -> jax.Array:
    """Returns where one device's share of a batch lies in the epoch's order, int32 `[batch_size // num_shards]`.

    Args:
      step_in_epoch: int32, from 0.
      batch_size: the number of images over all devices, a multiple of `num_shards`.
      shard: int32, the index of this device.
      num_shards: the number of devices.
    """
    share = batch_size // num_shards
    return step_in_epoch * batch_size + shard * share + jnp.arange(share)


def augment(keys: jax.Array, pixels: jax.Array, padding: int, flip: bool) -> jax.Array:
    """Crops images at random after padding them with zeros, and flips them left to right at random.

    Args:
      keys: PRNG keys `[N]`, one for each image.
      pixels: uint8 `[N, H, W, C]`.
      padding: the number of black pixels added on each side; 0 for no crop.
      flip: whether each image is flipped with probability 1/2.

    Returns:
      uint8 `[N, H, W, C]`.
    """
    height, width = pixels.shape[1:3]

    def one(key: jax.Array, image: jax.Array) -> jax.Array:
        crop_key, flip_key = jax.random.split(key)
        if padding:
            image = jnp.pad(image, ((padding, padding), (padding, padding), (0, 0)))
            top, left = jax.random.randint(crop_key, (2,), 0, 2 * padding + 1)
            image = jax.lax.dynamic_slice(image, (top, left, 0), (height, width, image.shape[-1]))
        if flip:
            image = jnp.where(jax.random.bernoulli(flip_key), image[:, ::-1], image)
        return image

    return jax.vmap(one)(keys, pixels) if padding or flip else pixels


def train_batch(
    data: TrainData,
    step: jax.Array,
    *,
    steps_per_epoch: int,
    batch_size: int,
    shard: jax.Array,
    num_shards: int,
    padding: int,
    flip: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns one device's share of a training batch.

    Args:
      data: the images, or those of this batch.
      step: int32, counted from the start of training.
      steps_per_epoch: see `data.order.steps_per_epoch`.
      batch_size: the number of images over all devices.
      shard: int32, the index of this device.
      num_shards: the number of devices.
      padding, flip: see `augment`.

    Returns:
      uint8 images `[share, H, W, C]` and int32 labels `[share]`.
    """
    images, labels = data.share(step % steps_per_epoch, batch_size, shard, num_shards)
    in_batch = batch_positions(jnp.int32(0), batch_size, shard, num_shards)
    step_key = jax.random.fold_in(data.key, step)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(in_batch)
    return augment(keys, images, padding, flip), labels
