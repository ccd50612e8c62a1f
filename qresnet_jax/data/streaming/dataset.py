"""An image set that stays on the disk: what training, validation and tests ask of it."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import json
import os
from collections.abc import Callable, Generator, Sequence
from typing import NamedTuple

import numpy as np

from qresnet_jax.data.dataset import Split, channel_counts, channel_statistics
from qresnet_jax.data.streaming.batches import Images, TestBatches, TrainBatches
from qresnet_jax.data.streaming.stream import Stream
from qresnet_jax.errors import UserError
from qresnet_jax.system.cache import cache_directory
from qresnet_jax.system.files import write_all
from qresnet_jax.system.machine import processors

TEST_BATCH = 256  # images that a test reads at once
# Pixels, of the first images, that the means are computed of: 5,349 images of 224x224.
MEAN_PIXELS = 2**28
_CHUNK = 64  # images that a thread decodes at once


class Opened(NamedTuple):
    """A set whose files have been opened."""

    train: Images
    test: Images
    validation: Images | None  # if the set has such a split
    class_names: tuple[str, ...]
    stamp: str  # changes when the set does


class StreamedSplit:
    """A split that stays on the disk.

    Args:
      images: what it consists of.
      workers: the number of worker processes that decode.
    """

    def __init__(self, images: Images, workers: int) -> None:
        self.images, self.workers = images, workers

    @property
    def num_images(self) -> int:
        """The number of images."""
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(height, width, channels)`."""
        return self.images.shape

    def first(self, count: int) -> np.ndarray:
        """Returns the first images, at most `count`, as a test sees them, uint8 `[N, H, W, C]`."""
        return self.images.test_batch(range(min(count, len(self.images)))).images

    def parts(self) -> Generator[Split]:
        """Yields all images and labels, each image once, some at a time.

        Raises:
          DataError: an image cannot be read.
        """
        batches = TestBatches(self.images, TEST_BATCH)
        # A process takes longer to start than some batches take to decode.
        workers = self.workers if len(batches) > 8 else 0
        with Stream(batches, 0, workers, TEST_BATCH * int(np.prod(self.image_shape)), lambda x: x) as stream:
            yield from stream


@dataclasses.dataclass(frozen=True)
class StreamedDataset:
    """An image set that stays on the disk; see `ImageDataset` for one in memory.

    Args:
      name: what the log and messages call it.
      class_names: the names of the classes.
      train, test, validation: the splits; validation may be None.
      stamp: a text that is the same for copies of the set, and another one for other sets.
    """

    name: str
    class_names: tuple[str, ...]
    train: StreamedSplit
    test: StreamedSplit
    validation: StreamedSplit | None
    stamp: str

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(height, width, channels)`."""
        return self.train.image_shape

    @functools.cached_property
    def mean(self) -> np.ndarray:
        """The mean of each channel over the train images as a test sees them, or over the first `MEAN_PIXELS` of them.

        It is float64 `[C]`, rounded as `ImageDataset.mean` is. The user's cache keeps it, as computing it may take a minute.
        """
        written = [os.stat(path).st_mtime_ns for path, _ in self.train.images.records.files]
        key = f"{self.stamp}\0{written}\0{self.train.images.view}\0{self.train.num_images}\0{MEAN_PIXELS}"
        return remembered(key, self._mean)

    def _mean(self) -> np.ndarray:
        height, width, channels = self.image_shape
        count = min(self.train.num_images, max(MEAN_PIXELS // (height * width), 1))
        chunks = [range(i, min(i + _CHUNK, count)) for i in range(0, count, _CHUNK)]
        counts = np.zeros((channels, 256), np.int64)
        with concurrent.futures.ThreadPoolExecutor(processors()) as pool:
            for part in pool.map(
                lambda chunk: channel_counts(self.train.images.test_batch(chunk).images), chunks
            ):
                counts += part
        return channel_statistics(counts)[0]

    def checksum(self) -> str:
        """Returns a checksum of what the set consists of, as 8 hexadecimal digits."""
        return hashlib.sha256(self.stamp.encode()).hexdigest()[:8]

    def training(self, seed: int, batch_size: int, rows: Sequence[int], steps: int) -> TrainBatches:
        """Returns the batches of a run; see `TrainBatches`."""
        return TrainBatches(self.train.images, seed, batch_size, rows, steps)


def remembered(key: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Returns an array of float64 from the user's cache, or computes it and keeps it there if that is possible."""
    try:
        path = cache_directory("means") / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
    except UserError:
        return compute()
    with contextlib.suppress(OSError, ValueError):
        return np.array(json.loads(path.read_text()), np.float64)
    found = compute()
    with contextlib.suppress(OSError, UserError):
        write_all({path: json.dumps(found.tolist()).encode()})
    return found
