"""The input pipeline on the device: the order of the images, batches and augmentation, as pure functions.

The whole set lies on each device as uint8. What a step sees depends only on (seed, step): neither on the number of
devices nor on where a run was interrupted.
"""

import jax
import jax.numpy as jnp


def epoch_order(key: jax.Array, epoch: jax.Array, num_images: int) -> jax.Array:
    """Returns a random order of all images, int32 `[num_images]`, which depends only on (key, epoch)."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), num_images)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Returns the number of batches that visit every image once.

    The last batch is filled up with the first images of the epoch's order.
    """
    return -(-num_images // batch_size)


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
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    order: jax.Array,
    step: jax.Array,
    step_in_epoch: jax.Array,
    *,
    batch_size: int,
    shard: jax.Array,
    num_shards: int,
    padding: int,
    flip: bool,
) -> tuple[jax.Array, jax.Array]:
    """Returns one device's share of a training batch.

    Args:
      key: the PRNG key of the run.
      images: uint8 `[N, H, W, C]`, the whole training set.
      labels: int32 `[N]`.
      order: int32 `[N]`, from `epoch_order`.
      step: int32, counted from the start of training.
      step_in_epoch: int32, counted from the start of the epoch.
      batch_size: the number of images over all devices.
      shard: int32, the index of this device.
      num_shards: the number of devices.
      padding, flip: see `augment`.

    Returns:
      uint8 images `[share, H, W, C]` and int32 labels `[share]`.
    """
    positions = batch_positions(step_in_epoch, batch_size, shard, num_shards)
    chosen = order[positions % len(order)]
    in_batch = positions - step_in_epoch * batch_size
    step_key = jax.random.fold_in(key, step)
    keys = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(in_batch)
    return augment(keys, images[chosen], padding, flip), labels[chosen]
