"""Loads an image set by its name, as uint8 arrays with a train, a validation and a test split.

    digits                                    scikit-learn's 8x8 digits, which are always available
    cifar10, cifar100, mnist, fashion_mnist   TFDS directories, prepared on first use (see `builders`)
    any other name                            an image classification set that TFDS has prepared as ArrayRecord files

The validation split is the end of train.
"""

import logging
import math
import pathlib

import numpy as np
from ml_collections import ConfigDict

from qresnet_jax.data import builders, prepared
from qresnet_jax.data.dataset import ImageDataset, Split
from qresnet_jax.errors import DataError
from qresnet_jax.pixels import round_mean

log = logging.getLogger("qresnet_jax")

DIGITS_TEST = 360  # the last images are by other writers than the first 1,437


def load_dataset(data_config: ConfigDict) -> ImageDataset:
    """Loads a set. If it is one of `builders.STANDARD` and not yet prepared, prepares it first.

    Args:
      data_config: has the field `name` and may have these:
        `data_dir`: the directory of prepared sets; if empty, $TFDS_DATA_DIR or ~/tensorflow_datasets.
        `raw_dir`: where the published archive lies; if empty, it is downloaded.
        `holdout`: the fraction of train that becomes the validation split, by default 0.1. The split has the last
        floor(N * holdout) images of train; with 0 there is none.

    Returns:
      The set. The arrays of train and validation share memory.

    Raises:
      DataError: the set is unknown, damaged, cannot be prepared, or is no set of equally large images with two or more
        classes.
    """
    name, data_dir, raw_dir = _fields(data_config)
    holdout = getattr(data_config, "holdout", 0.1)
    if not 0 <= holdout < 1:
        raise DataError(
            f"config.data.holdout={holdout}: expected a fraction of train, at least 0 and below 1."
        )
    if name == "digits":
        train, test, class_names = _digits()
    else:
        directory = builders.prepared_dir(name, data_dir)
        if directory is None:
            if name not in builders.STANDARD:
                raise _unknown(name, data_dir)
            log.info("%s is not prepared in %s: preparing it now", name, builders.data_root(data_dir))
            directory = builders.prepare(name, data_dir, raw_dir)
        train, test, class_names = prepared.read(directory)
    kept = len(train.labels) - math.floor(len(train.labels) * holdout)
    validation = Split(train.images[kept:], train.labels[kept:]) if kept < len(train.labels) else None
    train = Split(train.images[:kept], train.labels[:kept])
    if len(np.unique(train.labels)) == 1:
        log.warning(
            "%s: all train images are of class %r, so there is nothing to learn",
            name,
            class_names[train.labels[0]],
        )
    return ImageDataset(name, train, validation, test, class_names, *_channel_statistics(train.images))


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
    if name in builders.STANDARD:
        return builders.prepare(name, data_dir, raw_dir)
    if done := builders.prepared_dir(name, data_dir):
        prepared.describe(done)
        log.info("%s is already prepared in %s", name, done)
        return done
    raise _unknown(name, data_dir)


def _fields(data_config: ConfigDict) -> tuple[str, str, str]:
    return data_config.name, getattr(data_config, "data_dir", ""), getattr(data_config, "raw_dir", "")


def _unknown(name: str, data_dir: str) -> DataError:
    root = builders.data_root(data_dir)
    if name.startswith("imagenet"):
        return DataError(
            f"config.data.name={name!r}: ImageNet must be streamed and its images resized, which is not supported yet. "
            f"Use a set of equally large images, prepared in config.data.data_dir={str(root)!r}."
        )
    here = sorted({path.relative_to(root).parts[0] for path in root.glob("*/**/dataset_info.json")})
    return DataError(
        f"config.data.name={name!r} is not known. Known are digits, {', '.join(builders.STANDARD)}, and the sets that "
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


def _channel_statistics(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean, rounded to multiples of 1/2, and the standard deviation of each channel, float64 [C] each.

    The images are uint8 [N, H, W, C]. Both come from exact counts of the 256 values, since a copy of the images in
    float64 would take eight times their memory.
    """
    values = np.arange(256, dtype=np.float64)
    counts = np.zeros((images.shape[-1], 256), np.int64)
    for start in range(0, len(images), 1000):
        for c, channel in enumerate(counts):
            channel += np.bincount(images[start : start + 1000, ..., c].ravel(), minlength=256)
    weights = counts / counts.sum(axis=1, keepdims=True)
    mean = weights @ values
    variance = (weights * (values - mean[:, None]) ** 2).sum(axis=1)
    return round_mean(mean), np.where(variance > 0, np.sqrt(variance), 1.0)
