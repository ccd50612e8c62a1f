"""Says which images a batch has, and reads it. A batch depends on its number alone, whichever process asks for it."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np

from qresnet_jax.data.dataset import Split
from qresnet_jax.data.order import epoch_order, steps_per_epoch
from qresnet_jax.data.streaming.records import Record, Records
from qresnet_jax.data.streaming.views import View
from qresnet_jax.errors import DataError

Numbers = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Images:
    """The images of a split: some records, and what is seen of them.

    Args:
      records: of the files that the split lies in.
      positions: those of its images in the records; for a large set that is a range, which takes no memory.
      view: what is seen of the images.
      shape: `(height, width, channels)` of what is seen.
    """

    records: Records
    positions: Numbers
    view: View
    shape: tuple[int, int, int]

    def __len__(self) -> int:
        return len(self.positions)

    def test_batch(self, numbers: Numbers) -> Split:
        """Returns what a test sees of some images of the split, by their numbers in it.

        Raises:
          DataError: an image cannot be read; the message names its record.
        """
        return self._batch(numbers, [self.view.of_test] * len(numbers))

    def training_batch(self, numbers: Numbers, seed: int, samples: Numbers) -> Split:
        """Returns what training sees of some images.

        Args:
          numbers: the numbers of the images in the split.
          seed: the seed of the run.
          samples: the number of each of the images in the run, from which its random crop is drawn.

        Raises:
          DataError: as for `test_batch`.
        """
        looks = [functools.partial(self.view.of_training, seed=seed, sample=int(i)) for i in samples]
        return self._batch(numbers, looks)

    def _batch(self, numbers: Numbers, looks: Sequence[Callable[[bytes], np.ndarray]]) -> Split:
        images = np.empty((len(numbers), *self.shape), np.uint8)
        labels = np.empty(len(numbers), np.int32)
        records = self.records.read([int(self.positions[int(i)]) for i in numbers])
        for k, (record, look) in enumerate(zip(records, looks, strict=True)):
            images[k], labels[k] = self._seen(record, look), record.label
        return Split(images, labels)

    def _seen(self, record: Record, look: Callable[[bytes], np.ndarray]) -> np.ndarray:
        try:
            pixels = look(record.data)
        except Exception as error:  # whatever a decoder meets first in a damaged file
            raise DataError(
                f"{record.name} cannot be decoded ({' '.join(str(error).split())}): restore the file, or prepare the set "
                "again."
            ) from error
        if pixels.shape != self.shape:
            one, other = (f"{w}x{h}" for h, w, _ in (self.shape, pixels.shape))
            raise DataError(
                f"{record.name}: images have different sizes: the first has {one}, this one has {other} (width x height). "
                "Set config.data.image_size, as in --config.data.image_size=224, to give all of them one size."
            )
        return pixels


@dataclasses.dataclass(frozen=True)
class TrainBatches:
    """The batches of a run, by their steps.

    The images of the run have numbers: image `row` of a step is number `step * batch_size + row`. Its epoch and its place
    in the order of that epoch follow from the number.

    Args:
      images: the training split.
      seed: the seed of the run.
      batch_size: the number of images in a batch, over all processes.
      rows: the rows of a batch that this process reads.
      steps: the number of steps of the run.
    """

    images: Images
    seed: int
    batch_size: int
    rows: Sequence[int]
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> Split:
        """Returns this process's rows of a batch."""
        count = len(self.images)
        epoch, in_epoch = divmod(int(step), steps_per_epoch(count, self.batch_size))
        rows = np.asarray(self.rows, np.int64)
        numbers = _order(self.seed, epoch, count)[(in_epoch * self.batch_size + rows) % count]
        return self.images.training_batch(numbers, self.seed, step * self.batch_size + rows)


@dataclasses.dataclass(frozen=True)
class TestBatches:
    """A split in its own order, in batches; each image is in one of them.

    Args:
      images: the split.
      batch_size: the number of images in a batch; the last one may have fewer.
    """

    images: Images
    batch_size: int

    __test__ = False  # pytest takes it for a class of tests

    def __len__(self) -> int:
        return steps_per_epoch(len(self.images), self.batch_size)

    def __getitem__(self, number: int) -> Split:
        """Returns a batch."""
        start = int(number) * self.batch_size
        return self.images.test_batch(range(start, min(start + self.batch_size, len(self.images))))


@functools.lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return epoch_order(seed, epoch, count)
