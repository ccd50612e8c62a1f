"""Reads image classification sets that our builders or TFDS's own have prepared as ArrayRecord files.

They are read without TensorFlow and without a network, in the order of their files. TFDS shuffled the images once, by
key, so this order is random but the same everywhere; a set that was prepared without shuffling is shuffled here.
"""

import contextlib
import json
import logging
import pathlib
from typing import Any, NamedTuple

import numpy as np

from qresnet_jax.data.dataset import Split, check_classes, places_of_test, shuffled
from qresnet_jax.data.streaming.views import View
from qresnet_jax.errors import DataError

log = logging.getLogger("qresnet_jax")

HELD_OUT = ("test", "validation", "val")  # the first of these splits that a set has is its test split


class Description(NamedTuple):
    """What a prepared set says about itself."""

    info: Any  # of TFDS, which does not declare its types
    sizes: dict[str, int]  # the number of images of each split
    image: str  # the name of the feature with the images
    label: str  # the name of the feature with their classes
    shape: tuple[int | None, ...]  # (height, width, channels), each None if the images say it themselves
    names: tuple[str, ...]  # of the classes


def describe(directory: pathlib.Path) -> Description:
    """Reads the description of a prepared set, and none of its images.

    Args:
      directory: DATA_DIR/NAME/[CONFIG/]VERSION.

    Raises:
      DataError: it is damaged, or the set is prepared in another format, or it does not consist of uint8 images with two
        or more classes.
    """
    import tensorflow_datasets as tfds

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
        keys = info.supervised_keys
        sizes = {name: split.num_examples for name, split in info.splits.items()}
    except DataError:
        raise
    except Exception as error:  # TFDS raises exceptions of many types when metadata is damaged
        raise DataError(
            f"{directory}: the description of the set is damaged ({error}). {again(directory)}"
        ) from error
    features = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    image, label = _image_and_label(features, keys, directory)
    if features[image].np_dtype != np.uint8:
        raise DataError(
            f"{directory}: expected uint8 images, got {np.dtype(features[image].np_dtype)}: choose another set."
        )
    names = tuple(features[label].names) if features[label].num_classes else ()
    check_classes(directory, names)
    if "train" not in sizes:
        raise DataError(
            f"{directory}: expected the splits train and test, got {list(sizes)}: without a train split, there is "
            "nothing to learn from; choose another set."
        )
    return Description(info, sizes, image, label, tuple(features[image].shape), names)


def held_out_split(about: Description) -> str | None:
    """Returns the split that is used as test, the first of HELD_OUT that has images; None if there is none. It logs it.

    A split whose first image has no class, as the test split of ImageNet, is left out if there is another one.
    """
    name, sizes = about.info.full_name, about.sizes
    found = [split for split in HELD_OUT if sizes.get(split)]
    while len(found) > 1 and _is_without_labels(about, found[0]):
        log.info("%s has no labels in its %s split", name, found.pop(0))
    held_out = found[0] if found else None
    if unused := ", ".join(split for split in sizes if split not in ("train", held_out)):
        log.info("%s has more splits than are used: %s", name, unused)
    if held_out and held_out != "test":
        log.info("%s has no test split: its %s split is used as test", name, held_out)
    return held_out


def _is_without_labels(about: Description, split: str) -> bool:
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    files = zip(about.info.splits[split].filepaths, about.info.splits[split].shard_lengths, strict=True)
    path = next(str(path) for path, length in files if length)
    try:
        with contextlib.closing(ArrayRecordReader(path)) as reader:
            (record,) = reader.read([0])
        return tf_example_pb2.Example.FromString(record).features.feature[about.label].int64_list.value[0] < 0
    except Exception:  # reading the split will say what is wrong
        return False


def read(directory: pathlib.Path, image_size: int = 0) -> tuple[Split, Split, tuple[str, ...]]:
    """Reads an image classification set that our builders or TFDS's own have prepared as ArrayRecord files.

    Args:
      directory: DATA_DIR/NAME/[CONFIG/]VERSION.
      image_size: the height and width that images are resized to, as those of a folder are; with 0 they keep their size.

    Returns:
      The train split, the test split, and the class names. The test split is the first of HELD_OUT that has
      images; if there is none, it is every tenth train image of each class, which train then lacks.

    Raises:
      DataError: the set is damaged, is prepared in another format, or does not consist of equally large uint8 images
        with two or more classes.
    """
    about = describe(directory)
    name = about.info.full_name
    train = _read_split(directory, about, "train", image_size)
    if about.info.disable_shuffling:
        # The images may be sorted by class, and the last ones become the validation split.
        log.info("%s was prepared without shuffling: its train split is shuffled now", name)
        order = shuffled(len(train.labels))
        train = Split(train.images[order], train.labels[order])
    if held_out := held_out_split(about):
        test = _read_split(directory, about, held_out, image_size)
    else:
        in_test = kept_for_test(train.labels, about, directory)
        train, test = (Split(train.images[part], train.labels[part]) for part in (~in_test, in_test))
    if train.image_shape != test.image_shape:
        raise uneven(directory, train.image_shape, test.image_shape)
    return train, test, about.names


def _image_and_label(
    features: dict[str, Any], supervised: tuple[Any, ...] | None, directory: pathlib.Path
) -> tuple[str, str]:
    """Returns the names of the features with the images and with their classes.

    They are those that the set's `supervised_keys` name: input and target, and perhaps a weight, which is not used. If
    these are no image and no class, they are "image" and "label"; if there are no keys, the only ones of their kinds.

    Raises:
      DataError: there are no such features.
    """
    import tensorflow_datasets as tfds

    kinds = tfds.features
    labels = [key for key, f in features.items() if isinstance(f, kinds.ClassLabel)]
    # A LabeledImage has a class for each pixel.
    masks = [key for key, f in features.items() if isinstance(f, kinds.LabeledImage)]
    images = [key for key, f in features.items() if isinstance(f, kinds.Image) and key not in masks]
    pairs: list[tuple[Any, ...]] = [supervised[:2]] if supervised else []
    pairs.append(("image", "label"))
    if not supervised and len(images) == len(labels) == 1:
        pairs.append((images[0], labels[0]))
    for image, label in pairs:
        if image in images and label in labels:
            if (image, label) != ("image", "label"):
                log.info("%s: the images are in %r, their classes in %r", directory, image, label)
            if supervised and len(supervised) > 2 and supervised[:2] == (image, label):
                log.info("%s: the weights of its images, %r, are not used", directory, supervised[2])
            return image, label
    found = ", ".join(f"{key!r} ({type(f).__name__})" for key, f in sorted(features.items()))
    raise DataError(
        f"{directory}: expected the features 'image' (an Image) and 'label' (a ClassLabel), or two such features that "
        f"its supervised_keys name, got {found or 'none'} and supervised_keys={supervised}: choose an image "
        "classification set."
    )


def kept_for_test(labels: np.ndarray, about: Description, directory: pathlib.Path) -> np.ndarray:
    """Chooses every tenth image of each class of a train split for the test, at least one of two, and says so.

    Returns:
      bool `[N]`, whether each image is in the test split.

    Raises:
      DataError: no class has more than one image.
    """
    in_test = np.zeros(len(labels), bool)
    by_class = np.argsort(labels, kind="stable")
    _, starts = np.unique(labels[by_class], return_index=True)
    for images in np.split(by_class, starts[1:]):
        in_test[images[places_of_test(len(images))]] = True
    if not in_test.any():
        raise DataError(
            f"{directory}: there is no test split, and every class has a single train image, so that none can be kept for "
            "the test: choose another set."
        )
    log.info(
        "%s has no test split: every tenth train image of each class is kept as test, %d of %d images",
        about.info.full_name,
        in_test.sum(),
        len(labels),
    )
    return in_test


def _read_split(directory: pathlib.Path, about: Description, name: str, image_size: int) -> Split:
    """Reads one split, whole files at once. Item by item, as TFDS reads, it takes several times as long."""
    from array_record.python.array_record_module import ArrayRecordReader
    from tensorflow_datasets.proto import tf_example_pb2

    split, view = about.info.splits[name], View(about.shape[-1], image_size)
    images = np.empty((0,), np.uint8)
    labels: list[int] = []
    for path, length in zip(split.filepaths, split.shard_lengths, strict=True):
        try:
            if not pathlib.Path(path).is_file():
                raise FileNotFoundError("the file is missing")
            with contextlib.closing(ArrayRecordReader(str(path))) as reader:
                records = reader.read_all()
            if len(records) != length:
                raise ValueError(f"expected {length} records, got {len(records)}")
            for record in records:
                feature = tf_example_pb2.Example.FromString(record).features.feature
                pixels = view.of_test(feature[about.image].bytes_list.value[0])
                if not labels:
                    images = np.empty((about.sizes[name], *pixels.shape), np.uint8)
                if pixels.shape != images.shape[1:]:
                    raise uneven(directory, images.shape[1:], pixels.shape)
                images[len(labels)] = pixels
                labels.append(feature[about.label].int64_list.value[0])
        except DataError:
            raise
        except Exception as error:  # records, protocol buffers and images each raise exceptions of their own
            raise DataError(f"{path} is damaged ({error}). {again(directory)}") from error
    if not labels:
        raise DataError(f"{directory}: split {name!r} is empty. {again(directory)}")
    if not 0 <= min(labels) <= max(labels) < len(about.names):
        raise DataError(
            f"{directory}: labels of {name!r} run from {min(labels)} to {max(labels)}, expected 0 to "
            f"{len(about.names) - 1}: a split without labels (-1) cannot be used."
        )
    return Split(images, np.array(labels, np.int32))


def uneven(directory: pathlib.Path, first: tuple[int, ...], other: tuple[int, ...]) -> DataError:
    one, another = ("x".join(map(str, shape)) for shape in (first, other))
    return DataError(
        f"{directory}: images have different sizes: the first has {one}, another has {another} (height x width x channels). "
        "Set config.data.image_size, as in --config.data.image_size=224, to give all of them one size."
    )


def again(directory: pathlib.Path) -> str:
    return f"Delete {directory} and prepare the set again."
