"""Loads an image set by its name, as uint8 arrays with a train, a validation and a test split.

    digits                                    scikit-learn's 8x8 digits, which are always available
    cifar10, cifar100, mnist, fashion_mnist   TFDS directories, prepared on first use (see `builders`)
    folder                                    a folder, or an archive, of image files (see `folder`)
    arrays                                    what `train_and_evaluate(..., dataset=...)` was given; not loaded here
    any other name                            an image classification set that TFDS has prepared as ArrayRecord files

The validation split is the end of train, unless a folder has one of its own.
"""

import dataclasses
import functools
import logging
import math
import pathlib

import numpy as np
from ml_collections import ConfigDict

from qresnet_jax.data import builders, prepared
from qresnet_jax.data.dataset import ARRAYS, FOLDER, ImageDataset, Split, check_dataset, shuffled
from qresnet_jax.data.folder import prepare_folder, read_folder
from qresnet_jax.data.streaming.choice import is_streamed, number_of_workers
from qresnet_jax.data.streaming.dataset import Opened, StreamedDataset, StreamedSplit
from qresnet_jax.data.streaming.folder import count_and_shape, open_folder, prepare_encoded
from qresnet_jax.data.streaming.prepared import open_prepared
from qresnet_jax.errors import DataError

log = logging.getLogger("qresnet_jax")

DIGITS_TEST = 360  # the last images are by other writers than the first 1,437


def load_dataset(
    data_config: ConfigDict, resident_bytes: int | None = None
) -> ImageDataset | StreamedDataset:
    """Loads a set, or opens one that is to be streamed. If it is one of `builders.STANDARD` and not yet prepared, prepares it.

    Args:
      data_config: has the field `name` and may have these:
        `data_dir`: the directory of prepared sets; if empty, $TFDS_DATA_DIR or ~/tensorflow_datasets.
        `raw_dir`: where the published archive lies; if empty, it is downloaded. Or the folder of images.
        `image_size`: the height and width that images are resized to; with 0 they keep their size.
        `skip_broken`: for a folder, see `prepare_folder`.
        `holdout`: the fraction of train that becomes the validation split, by default 0.1. The split has the last
        floor(N * holdout) images of train; with 0 there is none.
        `streaming`: True, False or "auto", the default; see `choice.is_streamed`.
        `workers`: the number of processes that decode a streamed set.
        `least_crop_area`: the least area of a random crop, see `streaming.views.View`.
      resident_bytes: the pixels that may be held in memory if `streaming` is "auto"; by default a quarter of the memory.

    Returns:
      The set. The arrays of train and validation share memory.

    Raises:
      DataError: the set is unknown, damaged, cannot be prepared or streamed, or is no set of equally large images with two
        or more classes.
    """
    name, data_dir, raw_dir = _fields(data_config)
    holdout = getattr(data_config, "holdout", 0.1)
    _check_holdout(holdout)
    if name == ARRAYS:
        raise _unknown(name, data_dir)
    validation = None
    if name == "digits":
        train, test, class_names = _digits()
    elif name == FOLDER:
        directory, streamed = _prepare_folder(data_config, resident_bytes)
        if streamed:
            return _streamed(data_config, open_folder(directory, *_view(data_config)))
        splits, class_names = read_folder(directory)
        train, validation, test = splits["train"], splits.get("validation"), splits["test"]
    else:
        done = builders.prepared_dir(name, data_dir)
        if done is None:
            if name not in builders.STANDARD:
                raise _unknown(name, data_dir)
            log.info("%s is not prepared in %s: preparing it now", name, builders.data_root(data_dir))
            done = builders.prepare(name, data_dir, raw_dir)
        directory, about = done, prepared.describe(done)
        if is_streamed(data_config, lambda: (sum(about.sizes.values()), about.shape), resident_bytes):
            return _streamed(data_config, open_prepared(directory, about, *_view(data_config)))
        train, test, class_names = prepared.read(directory, _view(data_config)[0])
    dataset = ImageDataset(train=train, validation=validation, test=test, class_names=class_names, name=name)
    return _hold_out(dataset, holdout)


def _view(data_config: ConfigDict) -> tuple[int, float]:
    return getattr(data_config, "image_size", 0), getattr(data_config, "least_crop_area", 1.0)


def _streamed(data_config: ConfigDict, opened: Opened) -> StreamedDataset:
    """Returns the set with the end of train as validation split, if it has none and something is to be held out."""
    train, validation = opened.train, opened.validation
    kept = _kept(len(train), data_config.holdout)
    if validation is None and kept < len(train):
        train, validation = (
            dataclasses.replace(train, positions=part)
            for part in (train.positions[:kept], train.positions[kept:])
        )
    workers = number_of_workers(data_config.workers)
    split = functools.partial(StreamedSplit, workers=workers)
    return StreamedDataset(
        name=data_config.name,
        class_names=opened.class_names,
        train=split(train),
        test=split(opened.test),
        validation=None if validation is None else split(validation),
        stamp=opened.stamp,
    )


def take_dataset(dataset: ImageDataset, data_config: ConfigDict) -> ImageDataset:
    """Returns a set that was handed over as arrays, with a validation split if it has none yet.

    The validation split is the end of train, as in `load_dataset`. Images that are sorted by class are shuffled before,
    always in the same way, since the last ones would otherwise be of one class.

    Args:
      dataset: the set; its arrays are not changed.
      data_config: `holdout` is the fraction of train that becomes the validation split.

    Raises:
      DataError: `dataset` is no ImageDataset, or `holdout` is no such fraction.
    """
    labels = check_dataset(dataset).train.labels
    _fields(data_config)  # of which arrays use none
    if dataset.validation is None and data_config.holdout and _is_sorted(labels):
        log.info("%s: the train images are sorted by class, so they are shuffled now", dataset.name)
        order = shuffled(len(labels))
        dataset = dataset.with_train(Split(dataset.train.images[order], labels[order]))
    return _hold_out(dataset, data_config.holdout)


def _hold_out(dataset: ImageDataset, holdout: float) -> ImageDataset:
    """Returns the set with the end of train as validation split, if it has none and something is to be held out."""
    _check_holdout(holdout)
    images, labels = dataset.train
    kept = _kept(len(labels), holdout)
    if dataset.validation is None and kept < len(labels):
        dataset = dataset.with_train(
            Split(images[:kept], labels[:kept]), validation=Split(images[kept:], labels[kept:])
        )
    if len(np.unique(dataset.train.labels)) == 1:
        log.warning(
            "%s: all train images are of class %r, so there is nothing to learn",
            dataset.name,
            dataset.class_names[dataset.train.labels[0]],
        )
    return dataset


def _kept(count: int, holdout: float) -> int:
    """Returns how many of the train images are not held out."""
    return count - math.floor(count * holdout)


def _is_sorted(labels: np.ndarray) -> bool:
    """Returns whether all images of a class follow each other, and some class has several."""
    classes = len(np.unique(labels))
    return classes < len(labels) and np.count_nonzero(np.diff(labels)) == classes - 1


def _check_holdout(holdout: float) -> None:
    if not 0 <= holdout < 1:
        raise DataError(
            f"config.data.holdout={holdout}: expected a fraction of train, at least 0 and below 1."
        )


def prepare_dataset(data_config: ConfigDict) -> pathlib.Path:
    """Prepares a set for `load_dataset`, or does nothing if the set is prepared already.

    Args:
      data_config: as for `load_dataset`.

    Returns:
      The directory that `load_dataset` will read; for digits, scikit-learn's own file.

    Raises:
      DataError: the set cannot be prepared (see `builders.prepare`), or only TFDS itself can prepare it, or what it has
        prepared is no image classification set.
    """
    name, data_dir, raw_dir = _fields(data_config)
    if name == "digits":
        import sklearn.datasets

        log.info("digits comes with scikit-learn: there is nothing to prepare")
        return pathlib.Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    if name == FOLDER:
        return _prepare_folder(data_config, None)[0]
    if name in builders.STANDARD:
        return builders.prepare(name, data_dir, raw_dir)
    if name != ARRAYS and (done := builders.prepared_dir(name, data_dir)):
        prepared.describe(done)
        log.info("%s is already prepared in %s", name, done)
        return done
    raise _unknown(name, data_dir)


def _prepare_folder(data_config: ConfigDict, resident_bytes: int | None) -> tuple[pathlib.Path, bool]:
    """Prepares a folder; returns the directory, and whether it is prepared for streaming."""
    _, data_dir, raw_dir = _fields(data_config)
    root, skip_broken = builders.data_root(data_dir), getattr(data_config, "skip_broken", False)
    size = getattr(data_config, "image_size", 0)
    known = functools.partial(count_and_shape, raw_dir, root, image_size=size, skip_broken=skip_broken)
    if is_streamed(data_config, known, resident_bytes):
        return prepare_encoded(raw_dir, root, skip_broken=skip_broken), True
    return prepare_folder(raw_dir, root, image_size=size, skip_broken=skip_broken), False


def _fields(data_config: ConfigDict) -> tuple[str, str, str]:
    if data_config.name in ("digits", ARRAYS):
        if size := getattr(data_config, "image_size", 0):
            raise DataError(
                f"config.data.image_size={size}: the images of {data_config.name} are not resized: set it to 0."
            )
        if getattr(data_config, "streaming", False) is True:
            raise DataError(
                f"config.data.streaming=True: {data_config.name} is always held in memory: leave it at 'auto'."
            )
    return data_config.name, getattr(data_config, "data_dir", ""), getattr(data_config, "raw_dir", "")


def _unknown(name: str, data_dir: str) -> DataError:
    if name == ARRAYS:
        return DataError(
            "config.data.name='arrays': a command cannot read arrays. In Python, train_and_evaluate, evaluate_checkpoint, "
            "evaluate_packed and export_run take them as dataset=qresnet_jax.ImageDataset(...)."
        )
    root = builders.data_root(data_dir)
    here = sorted({path.relative_to(root).parts[0] for path in root.glob("*/**/dataset_info.json")})
    return DataError(
        f"config.data.name={name!r} is not known. Known are digits, {', '.join(builders.STANDARD)}, folder, and the sets that "
        f"are prepared in config.data.data_dir={str(root)!r}: {', '.join(here) or 'none yet'}. To prepare another "
        f"set of TFDS there, run this on a machine with TensorFlow: "
        f"tfds build {name} --file_format=array_record --data_dir={root}"
    )


def _digits() -> tuple[Split, Split, tuple[str, ...]]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    labels = digits.target.astype(np.int32)
    cut = len(labels) - DIGITS_TEST
    return Split(images[:cut], labels[:cut]), Split(images[cut:], labels[cut:]), tuple("0123456789")
