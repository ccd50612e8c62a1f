"""The pipeline on the device against NumPy: order, batches, crops, flips, normalisation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qresnet_jax.data.order import epoch_order, steps_per_epoch
from qresnet_jax.train import batches as pipeline

KEY = jax.random.key(7)
train_batch = jax.jit(
    pipeline.train_batch, static_argnames=("steps_per_epoch", "batch_size", "num_shards", "padding", "flip")
)
augment = jax.jit(pipeline.augment, static_argnums=(2, 3))
SIZES = [
    (1, 1),
    (7, 3),
    (8, 4),
    (5, 8),
    (3, 8),
    (1294, 64),
]  # images, batch size: multiples or not, and too few


def epoch_positions(num_images, batch_size, num_shards=1):
    """Positions in the epoch's order of every step, `[steps, batch_size]`, shares of all devices concatenated."""
    steps = steps_per_epoch(num_images, batch_size)
    shares = [
        [
            pipeline.batch_positions(np.int32(step), batch_size, shard, num_shards)
            for shard in range(num_shards)
        ]
        for step in range(steps)
    ]
    return np.array([np.concatenate(step) for step in shares])


def image_set(n=21, height=6, width=5, channels=3, seed=0):
    """Every pixel is at least 1, so that black can only come from padding."""
    rng = np.random.default_rng(seed)
    return rng.integers(1, 256, (n, height, width, channels), np.uint8), np.arange(n, dtype=np.int32)


def batch(images, labels, order, step, batch_size=8, num_shards=1, padding=1, flip=True, key=KEY):
    """A whole batch, shares of all devices concatenated."""
    shares = [
        train_batch(
            pipeline.ResidentData(images, labels, order, np.zeros(3), key),
            np.int32(step),
            steps_per_epoch=steps_per_epoch(len(labels), batch_size),
            batch_size=batch_size,
            shard=np.int32(shard),
            num_shards=num_shards,
            padding=padding,
            flip=flip,
        )
        for shard in range(num_shards)
    ]
    return tuple(np.concatenate(part) for part in zip(*shares, strict=True))


# ---- Order and batches -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_images", "batch_size"), SIZES)
def test_an_epoch_visits_every_image_and_fills_its_last_batch_from_its_start(num_images, batch_size):
    positions = epoch_positions(num_images, batch_size)
    steps = -(-num_images // batch_size)
    assert positions.shape == (steps, batch_size)
    np.testing.assert_array_equal(positions.ravel(), np.arange(steps * batch_size))
    images, labels = image_set(num_images)
    order = epoch_order(7, 0, num_images)
    seen = [
        batch(images, labels, order, i, batch_size, padding=0, flip=False)[1] for i in range(min(steps, 3))
    ]
    want = np.resize(np.asarray(order), steps * batch_size)  # np.resize repeats from the start
    np.testing.assert_array_equal(np.concatenate(seen), want[: len(seen) * batch_size])
    if len(seen) == steps:
        assert set(np.concatenate(seen)) == set(range(num_images))


@pytest.mark.parametrize("num_shards", [2, 4, 8])
@pytest.mark.parametrize(("padding", "flip"), [(0, False), (2, True)])
def test_a_batch_is_the_same_however_many_devices_share_it(num_shards, padding, flip):
    images, labels = image_set()
    order = epoch_order(7, 0, len(labels))
    for step in range(3):  # the last batch is filled up
        whole = batch(images, labels, order, step, padding=padding, flip=flip)
        shared = batch(images, labels, order, step, num_shards=num_shards, padding=padding, flip=flip)
        for a, b in zip(whole, shared, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_batch_holds_each_image_with_its_label():
    images, labels = image_set()
    order = epoch_order(7, 0, len(labels))
    pixels, got = batch(images, labels, order, 1, padding=0, flip=False)
    np.testing.assert_array_equal(got, order[8:16])
    np.testing.assert_array_equal(pixels, images[got])
    assert pixels.dtype == np.uint8 and got.dtype == np.int32


def test_augmentation_depends_on_seed_and_step_only():
    images, labels = image_set()
    order = epoch_order(7, 0, len(labels))

    def pixels(step, seed=7):
        return batch(images, labels, order, step, key=jax.random.key(seed))[0]

    np.testing.assert_array_equal(pixels(4), pixels(4))
    assert (pixels(4) != pixels(7)).any(), "the same images in another epoch are cropped anew"
    assert (pixels(4) != pixels(4, seed=8)).any()


# ---- Crop and flip -----------------------------------------------------------------------------------------


def crops(image, padding, flip):
    """Every possible augmentation by (top, left, flipped), by brute force."""
    height, width = image.shape[:2]
    padded = np.zeros((height + 2 * padding, width + 2 * padding, image.shape[2]), np.uint8)
    padded[padding : padding + height, padding : padding + width] = image
    found = {}
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = padded[top : top + height, left : left + width]
            found[top, left, False] = crop
            if flip:
                found[top, left, True] = crop[:, ::-1]
    return found


@pytest.mark.parametrize("shape", [(6, 5, 3), (8, 8, 1), (1, 1, 2)])
@pytest.mark.parametrize(("padding", "flip"), [(0, True), (1, False), (1, True), (2, True)])
def test_every_augmentation_is_a_possible_one_and_all_occur(shape, padding, flip):
    image = image_set(1, *shape)[0][0]
    possible = {}  # several offsets may give the same picture, if the image is small
    for pixels in crops(image, padding, flip).values():
        possible.setdefault(pixels.tobytes(), pixels)
    n = 60 * len(crops(image, padding, flip))
    got = augment(jax.random.split(KEY, n), np.broadcast_to(image, (n, *shape)), padding, flip)
    assert got.dtype == jnp.uint8 and got.shape == (n, *shape)
    # Each of n / 60 equally likely pictures is missing with probability e^-60.
    assert {pixels.tobytes() for pixels in np.asarray(got)} == possible.keys()


def test_offsets_and_flips_are_equally_likely():
    shape, padding, per_case = (6, 5, 3), 2, 200
    image = image_set(1, *shape)[0][0]
    by_picture = {pixels.tobytes(): case for case, pixels in crops(image, padding, True).items()}
    assert len(by_picture) == 50
    n = 50 * per_case
    got = np.asarray(augment(jax.random.split(KEY, n), np.broadcast_to(image, (n, *shape)), padding, True))
    cases = [by_picture[pixels.tobytes()] for pixels in got]
    counts = np.array([cases.count(case) for case in by_picture.values()])
    # Chi squared with 49 degrees of freedom is above 94.6 once in 10,000 seeds.
    assert ((counts - per_case) ** 2 / per_case).sum() < 94.6


def test_padding_is_black_and_nothing_else_is():
    n, padding = 64, 2
    images, _ = image_set(n)
    got = np.asarray(augment(jax.random.split(KEY, n), images, padding, True))
    for image, pixels in zip(images, got, strict=True):
        black = [
            int((crop == 0).sum()) for crop in crops(image, padding, True).values() if (crop == pixels).all()
        ]
        assert black == [int((pixels == 0).sum())]
    assert (got == 0).any()


def test_without_crop_and_flip_images_stay():
    images, _ = image_set()
    keys = jax.random.split(KEY, len(images))
    np.testing.assert_array_equal(augment(keys, images, 0, False), images)


def test_a_batch_is_augmented_image_by_image():
    n = 8
    images = np.repeat(image_set(1)[0], n, 0)  # the same image throughout
    order = np.arange(n)
    pixels, _ = batch(images, np.zeros(n, np.int32), order, 0, padding=2)
    assert len({p.tobytes() for p in pixels}) > n // 2
