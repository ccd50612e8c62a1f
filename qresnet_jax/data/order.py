"""Says in which order a run visits the training images. It depends on the seed and the epoch alone."""

import numpy as np


def epoch_order(seed: int, epoch: int, num_images: int) -> np.ndarray:
    """Returns a random order of all images, int32 `[num_images]`, which depends only on (seed, epoch).

    NumPy promises that this generator's numbers never change.
    """
    return np.random.RandomState([seed, epoch]).permutation(num_images).astype(np.int32)


def steps_per_epoch(num_images: int, batch_size: int) -> int:
    """Returns the number of batches that visit every image once.

    The last batch is filled up with the first images of the epoch's order.
    """
    return -(-num_images // batch_size)
