"""The form in which an image set lies in memory, and what arrays must be to become one."""

import functools
import zlib
from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qresnet_jax.errors import DataError, shown
from qresnet_jax.pixels import round_mean

ARRAYS = "arrays"  # what `config.data.name` says of a set that was handed over as arrays
FOLDER = "folder"  # and of a folder of image files


_AT_ONCE = 8192  # images; it limits the memory for what is computed of them
_TEST_EVERY = 10  # of a set without a test split, every tenth image of each class is kept for it


def places_of_test(count: int) -> range:
    """Returns which of a class's `count` images the test split gets, if the set has none: every tenth, at least one of two."""
    return range(min(_TEST_EVERY, count) - 1, count if count > 1 else 0, _TEST_EVERY)


class Split(NamedTuple):
    """The images of one split and their classes."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]

    @property
    def num_images(self) -> int:
        """The number of images."""
        return len(self.labels)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(height, width, channels)`."""
        return self.images.shape[1:]

    def first(self, count: int) -> np.ndarray:
        """Returns the first images, at most `count`, uint8 `[N, H, W, C]`."""
        return self.images[:count]

    def parts(self) -> Generator["Split"]:
        """Yields all images and labels, each image once, some at a time."""
        for start in range(0, len(self.labels), _AT_ONCE):
            yield Split(self.images[start : start + _AT_ONCE], self.labels[start : start + _AT_ONCE])


class ImageDataset:
    """An image set in memory; `train_and_evaluate(config, workdir, dataset=...)` takes one.

    Args:
      train: `(images, labels)`. The images are uint8 `[N, H, W, C]`, the labels are N integers of any type from 0 to the
        number of classes less 1. Arrays of JAX and of other libraries that NumPy understands are taken too.
      test: the same for the test split, with images of the same size.
      class_names: the names of the classes, in the order of the labels; at least two.
      name: what the log and messages call the set.
      validation: the same for the validation split. If it is None, training holds out `config.data.holdout` of the
        train images.

    Attributes:
      train, test, validation: each a `Split` with `images` uint8 `[N, H, W, C]` and `labels` int32 `[N]`, which share
        the memory of the given arrays where these have the right type; validation may be None.
      class_names: a tuple of strings.
      name: the given name.

    Raises:
      DataError: an array has another shape, type or length, or a label has no class, or there are fewer than two
        classes. The message says which array it is, and what to do.
    """

    def __init__(
        self,
        *,
        train: Split | tuple[npt.ArrayLike, npt.ArrayLike],
        test: Split | tuple[npt.ArrayLike, npt.ArrayLike],
        class_names: Sequence[str],
        name: str = ARRAYS,
        validation: Split | tuple[npt.ArrayLike, npt.ArrayLike] | None = None,
    ) -> None:
        self.name = name
        self.class_names = _class_names(name, class_names)
        classes = len(self.class_names)
        self.train = _split(f"{name}: train", train, classes)
        self.test = _split(f"{name}: test", test, classes)
        self.validation = None if validation is None else _split(f"{name}: validation", validation, classes)
        for part, split in (("validation", self.validation), ("test", self.test)):
            if split and split.images.shape[1:] != self.train.images.shape[1:]:
                of_train, other = (_by(x.images.shape[1:]) for x in (self.train, split))
                raise DataError(
                    f"{name}: the train images are {of_train}, but the {part} images are {other}: make all of them "
                    "equally large, with the same number of channels."
                )

    def __repr__(self) -> str:
        sizes = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = ", ".join(f"{len(split.labels)} {part}" for part, split in sizes.items() if split)
        return (
            f"ImageDataset({self.name!r}: {counts} images of {_by(self.train.images.shape[1:])}, "
            f"{len(self.class_names)} classes)"
        )

    def with_train(self, train: Split, validation: Split | None = None) -> "ImageDataset":
        """Returns the same set with another train split, and another validation split if one is given."""
        return ImageDataset(
            train=train,
            test=self.test,
            class_names=self.class_names,
            name=self.name,
            validation=self.validation if validation is None else validation,
        )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """`(height, width, channels)`."""
        return self.train.image_shape

    @property
    def mean(self) -> np.ndarray:
        """The mean of each channel over the train images, float64 `[C]`, in units of pixel values.

        It is rounded to multiples of 1/2, because the shipped network starts from the integer 2 * pixel - 2 * mean.
        """
        return self._statistics[0]

    @property
    def std(self) -> np.ndarray:
        """The standard deviation of each channel over the train images, float64 `[C]`; 1 if a channel is constant."""
        return self._statistics[1]

    @functools.cached_property
    def _statistics(self) -> tuple[np.ndarray, np.ndarray]:
        return channel_statistics(channel_counts(self.train.images))

    def checksum(self) -> str:
        """Returns a checksum of the train images and labels, in their order, as 8 hexadecimal digits."""
        crc = 0
        for array in self.train:
            for start in range(0, len(array), 1000):  # the bytes of a view are copied
                crc = zlib.crc32(np.ascontiguousarray(array[start : start + 1000]).data, crc)
        return f"{crc:08x}"


def check_dataset(dataset: ImageDataset) -> ImageDataset:
    """Returns what was given as `dataset=`, if it is an ImageDataset.

    Raises:
      DataError: it is something else.
    """
    if not isinstance(dataset, ImageDataset):
        raise DataError(
            f"dataset is a {type(dataset).__name__}: give a qresnet_jax.ImageDataset(train=(images, labels), "
            "test=(images, labels), class_names=[...])."
        )
    return dataset


def shuffled(count: int) -> np.ndarray:
    """Returns 0 to `count - 1` in an order that is random, but the same in every run and every version of NumPy."""
    return np.random.RandomState(0).permutation(count)


def check_classes(name: object, class_names: Sequence[str]) -> None:
    """Refuses a set of fewer than two classes.

    Args:
      name: what the message calls the set.
      class_names: the names of its classes.

    Raises:
      DataError: there are fewer than two.
    """
    if len(class_names) < 2:
        have = f"the only class {class_names[0]!r}" if class_names else "no classes"
        raise DataError(
            f"{name} has {have}, so there is nothing to tell apart: choose a set with two or more classes, or add images "
            "of another class to this one and prepare it again."
        )


def channel_counts(images: np.ndarray) -> np.ndarray:
    """Returns how often each channel of uint8 images `[N, H, W, C]` has each of the 256 values, int64 `[C, 256]`."""
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), 1000):
        for c, channel in enumerate(counts):
            channel += np.bincount(images[start : start + 1000, ..., c].ravel(), minlength=256)
    return counts


def channel_statistics(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean, rounded to multiples of 1/2, and the standard deviation of each channel, float64 `[C]` each.

    Both come from the exact counts of the 256 values (see `channel_counts`), since a copy of the images in float64 would
    take eight times their memory.
    """
    values = np.arange(256, dtype=np.float64)
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(axis=1)
    return round_mean(mean), np.where(variance > 0, np.sqrt(variance), 1.0)


def _class_names(name: str, given: Sequence[str]) -> tuple[str, ...]:
    names = () if given is None or isinstance(given, str) else tuple(given)
    if isinstance(given, str) or not all(isinstance(x, str) for x in names):
        raise DataError(
            f"{name}: class_names={shown(given)}: expected the names of the classes in the order of the labels, as in "
            '["cat", "dog"].'
        )
    if twice := sorted({x for x in names if names.count(x) > 1}):
        raise DataError(f"{name}: two classes have the name {twice[0]!r}: give each class its own name.")
    check_classes(name, names)
    return tuple(map(str, names))


def _split(where: str, given: Split | tuple[npt.ArrayLike, npt.ArrayLike], classes: int) -> Split:
    if not isinstance(given, tuple | list) or len(given) != 2:
        got = f"{len(given)} things" if isinstance(given, tuple | list) else f"a {type(given).__name__}"
        raise DataError(f"{where}: expected (images, labels), got {got}: give a tuple of two arrays.")
    images, labels = _images(where, _array(where, given[0])), _labels(where, _array(where, given[1]), classes)
    if len(images) != len(labels):
        raise DataError(
            f"{where}: there are {len(images)} images, but {len(labels)} labels: give one label for each image."
        )
    return Split(images, labels)


def _array(where: str, given: npt.ArrayLike) -> np.ndarray:
    try:
        return np.asarray(given)
    except Exception as error:  # of rows of different lengths, or of another library
        raise DataError(
            f"{where}: this {type(given).__name__} is no array ({' '.join(str(error).split())}): give an array with one "
            "shape and type, as NumPy makes them."
        ) from error


def _images(where: str, images: np.ndarray) -> np.ndarray:
    wanted = f"{where} images: expected uint8 [N, H, W, C]"
    got = f"got {images.dtype} {list(images.shape)}"
    if images.ndim == 3:
        raise DataError(f"{wanted}, {got}: if they are grey, add the axis of channels, images[..., None].")
    if images.ndim != 4:
        raise DataError(f"{wanted}, {got}: stack the images along the first axis, as np.stack does.")
    if not images.size:
        raise DataError(f"{wanted}, {got}: there are no pixels; give at least one image.")
    if images.dtype != np.uint8:
        if images.dtype.kind == "f":
            way = "if they run from 0 to 1, convert them with (255 * images).round().astype(np.uint8)"
        elif images.dtype.kind == "b":
            way = "convert them with 255 * images.astype(np.uint8)"
        else:
            way = "if they run from 0 to 255, convert them with images.astype(np.uint8)"
        raise DataError(f"{wanted} with values from 0 to 255, {got}: {way}.")
    _, first, second, last = images.shape
    if first in (1, 3) and second == last and last > 4:
        raise DataError(
            f"{wanted}, {got}, which looks like [N, C, H, W]: move the axis of channels to the end with "
            "images.transpose(0, 2, 3, 1)."
        )
    return np.ascontiguousarray(images)


def _labels(where: str, labels: np.ndarray, classes: int) -> np.ndarray:
    wanted = f"{where} labels: expected integers [N]"
    got = f"got {labels.dtype} {list(labels.shape)}"
    if labels.ndim != 1:
        way = "labels.argmax(1), if they are one-hot" if labels.shape[1:] == (classes,) else "labels.ravel()"
        raise DataError(f"{wanted}, one number for each image, {got}: give {way}.")
    if labels.dtype.kind not in "iu":
        way = (
            "give the position of each name in class_names"
            if labels.dtype.kind in "USO"
            else "if all of them are whole numbers, convert them with labels.astype(np.int32)"
        )
        raise DataError(f"{wanted}, {got}: {way}.")
    if labels.size and not 0 <= labels.min() <= labels.max() < classes:
        raise DataError(
            f"{where} labels: they run from {labels.min()} to {labels.max()}, expected 0 to {classes - 1}, as there are "
            f"{classes} class_names: number the classes from 0, in the order of class_names."
        )
    return labels.astype(np.int32, copy=False)


def _by(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
