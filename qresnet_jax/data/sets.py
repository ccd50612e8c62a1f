"""Loads an image set by its name, as uint8 arrays with a train, a validation and a test split.

    digits                                    scikit-learn's 8x8 digits, which are always available
    cifar10, cifar100, mnist, fashion_mnist   TFDS directories, prepared on first use (see `builders`)
    any other name                            an image classification set that TFDS has prepared as ArrayRecord files

A prepared set is read without TensorFlow and without a network, in the order of its files. TFDS shuffled the images
once, by key, so this order is random but the same everywhere. The validation split is the end of train.
"""

import dataclasses
import io
import json
import logging
import math
import pathlib
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from qresnet_jax.data import builders
from qresnet_jax.errors import DataError
from qresnet_jax.pixels import round_mean

log = logging.getLogger("qresnet_jax")

DIGITS_TEST = 360  # the last images are by other writers than the first 1,437


class Split(NamedTuple):
    """The images of one split and their classes."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """An image set in memory. `mean` and `std` are in units of pixel values, for `(pixels - mean) / std`.

    `mean` is rounded to multiples of 1/2, because the shipped network starts from the integer 2 * pixel - 2 * mean.
    """

    name: str
    train: Split
    validation: Split | None  # None if nothing is held out
    test: Split
    class_names: tuple[str, ...]
    mean: np.ndarray  # float64 [C], over the images of `train`
    std: np.ndarray  # float64 [C], the standard deviation over the same images; 1 if a channel is constant


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
      DataError: the set is unknown, damaged, cannot be prepared, or is no set of equally large images with classes.
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
        train, test, class_names = read_prepared(directory)
    kept = len(train.labels) - math.floor(len(train.labels) * holdout)
    validation = Split(train.images[kept:], train.labels[kept:]) if kept < len(train.labels) else None
    train = Split(train.images[:kept], train.labels[:kept])
    return ImageDataset(name, train, validation, test, class_names, *_channel_statistics(train.images))


def prepare_dataset(data_config: ConfigDict) -> pathlib.Path:
    """Prepares a set for `load_dataset`, or does nothing if the set is prepared already.

    Args:
      data_config: as for `load_dataset`.

    Returns:
      The directory that `load_dataset` will read; for digits, scikit-learn's own file.

    Raises:
      DataError: the set cannot be prepared (see `builders.prepare`), or only TFDS itself can prepare it.
    """
    name, data_dir, raw_dir = _fields(data_config)
    if name == "digits":
        import sklearn.datasets

        log.info("digits comes with scikit-learn: there is nothing to prepare")
        return pathlib.Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz"
    if name in builders.STANDARD:
        return builders.prepare(name, data_dir, raw_dir)
    if done := builders.prepared_dir(name, data_dir):
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


# ---- Prepared directories ----------------------------------------------------------------------------------


def read_prepared(directory: pathlib.Path) -> tuple[Split, Split, tuple[str, ...]]:
    """Reads an image classification set that our builders or TFDS's own have prepared as ArrayRecord files.

    Args:
      directory: DATA_DIR/NAME/[CONFIG/]VERSION.

    Returns:
      The train split, the test split (or the validation split, if there is no test split), and the class names.

    Raises:
      DataError: the set is damaged, is prepared in another format, or does not consist of equally large uint8 images
        with classes.
    """
    import tensorflow_datasets as tfds

    again = f"Delete {directory} and prepare the set again."
    try:
        stored = json.loads((directory / "dataset_info.json").read_text())
        formats = {stored.get("fileFormat", "tfrecord"), *stored.get("alternativeFileFormats", [])}
        if "array_record" not in formats:
            raise DataError(
                f"{directory} holds {', '.join(sorted(formats))} files, but only array_record can be read. To add it: "
                f"tfds convert_format --dataset_version_dir={directory} --out_file_format=array_record"
            )
        info = tfds.builder_from_directory(directory).info
        # This matters only if the set was prepared in another format and its ArrayRecord files were added later.
        info.set_file_format("array_record", override=True, override_if_initialized=True)
    except DataError:
        raise
    except Exception as error:  # TFDS raises exceptions of many types when metadata is damaged
        raise DataError(f"{directory}: the description of the set is damaged ({error}). {again}") from error
    features = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    image: Any = features.get("image")
    label: Any = features.get("label")
    has_classes = isinstance(label, tfds.features.ClassLabel) and label.num_classes
    if not isinstance(image, tfds.features.Image) or not has_classes:
        raise DataError(
            f"{directory}: expected the features 'image' (an Image) and 'label' (a ClassLabel), got {features}: choose "
            "an image classification set."
        )
    if image.np_dtype != np.uint8:
        raise DataError(
            f"{directory}: expected uint8 images, got {np.dtype(image.np_dtype)}: choose another set."
        )
    last = "test" if "test" in info.splits else "validation"
    if "train" not in info.splits or last not in info.splits:
        raise DataError(
            f"{directory}: expected the splits train and test, got {list(info.splits)}: choose another set."
        )
    if last != "test":
        log.info("%s has no test split: its validation split is used as test", info.full_name)
    train, test = (_read_split(directory, info.splits[s], image, label, again) for s in ("train", last))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise _uneven(directory, train.images.shape[1:], test.images.shape[1:])
    return train, test, tuple(label.names)


def _read_split(directory: pathlib.Path, split: Any, image: Any, label: Any, again: str) -> Split:
    """Reads one split, whole files at once. Item by item, as TFDS reads, it takes several times as long."""
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    images, labels = np.empty((0,), np.uint8), np.empty(split.num_examples, np.int32)
    i = 0
    for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
        try:
            if not pathlib.Path(path).is_file():
                raise FileNotFoundError("the file is missing")
            reader = ArrayRecordReader(str(path))
            records = reader.read_all()
            reader.close()
            if len(records) != length:
                raise ValueError(f"expected {length} records, got {len(records)}")
            for record in records:
                feature = tf_example_pb2.Example.FromString(record).features.feature
                pixels = _decode(feature["image"].bytes_list.value[0], image.shape[-1])
                if not i:
                    images = np.empty((split.num_examples, *pixels.shape), np.uint8)
                if pixels.shape != images.shape[1:]:
                    raise _uneven(directory, images.shape[1:], pixels.shape)
                images[i], labels[i] = pixels, feature["label"].int64_list.value[0]
                i += 1
        except DataError:
            raise
        except Exception as error:  # records, protocol buffers and images each raise exceptions of their own
            raise DataError(f"{path} is damaged ({error}). {again}") from error
    if not i:
        raise DataError(f"{directory}: split {split.name!r} is empty. {again}")
    if not 0 <= labels.min() <= labels.max() < label.num_classes:
        raise DataError(
            f"{directory}: labels of {split.name!r} run from {labels.min()} to {labels.max()}, expected 0 to "
            f"{label.num_classes - 1}: a split without labels (-1) cannot be used."
        )
    return Split(images, labels)


def _decode(data: bytes, channels: int | None) -> np.ndarray:
    """Decodes an image file (PNG, JPEG, ...) to uint8 [H, W, channels].

    If `channels` is None, grey pictures have 1 channel and all others 3.
    """
    from PIL import Image, PngImagePlugin

    # Image.open tries one format after the other. Nearly all files are PNG, and opening those directly halves the time.
    is_png = data[:8] == b"\x89PNG\r\n\x1a\n"
    file = io.BytesIO(data)
    picture: Image.Image = PngImagePlugin.PngImageFile(file) if is_png else Image.open(file)
    mode = {1: "L", 3: "RGB", 4: "RGBA", None: "L" if picture.mode in ("1", "L") else "RGB"}[channels]
    if picture.mode != mode:
        picture = picture.convert(mode)
    width, height = picture.size
    return np.frombuffer(picture.tobytes(), np.uint8).reshape(height, width, -1)


def _uneven(directory: pathlib.Path, first: tuple[int, ...], other: tuple[int, ...]) -> DataError:
    return DataError(
        f"{directory}: expected images of one size, got {first} and {other}. Resizing is not supported yet: choose a "
        "set of equally large images."
    )
