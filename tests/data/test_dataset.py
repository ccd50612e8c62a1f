"""What an image set in memory must have: every wrong array is refused with the way to mend it."""

import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from qresnet_jax.data import DataError, ImageDataset, Split
from qresnet_jax.data.dataset import channel_counts, channel_statistics

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
LABELS = np.array([0, 1, 2, 0, 1, 2])


def dataset(images=IMAGES, labels=LABELS, **changes):
    parts = {"train": (images, labels), "test": (IMAGES[:3], LABELS[:3]), "class_names": ["a", "b", "c"]}
    return ImageDataset(**{**parts, **changes})


@pytest.mark.parametrize(
    ("names", "message"), [((), "x has no classes"), (("cat",), "x has the only class 'cat'")]
)
def test_an_image_dataset_has_at_least_two_classes(names, message):
    split = Split(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32))
    with pytest.raises(DataError, match=f"{message}, so there is nothing to tell apart: choose a set"):
        ImageDataset(name="x", train=split, test=split, class_names=names)


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.int32, np.int64, np.uint64, ">i2"])
def test_labels_of_any_integer_type_become_int32(dtype):
    data = dataset(labels=LABELS.astype(dtype))
    assert data.train.labels.dtype == np.int32 and data.train.labels.tolist() == LABELS.tolist()


def test_arrays_are_taken_as_they_are():
    data = dataset(labels=LABELS.astype(np.int32), validation=[IMAGES, LABELS])
    assert data.train.images is IMAGES and data.train.labels.dtype == np.int32
    assert data.class_names == ("a", "b", "c") and data.name == "arrays" and len(data.validation.labels) == 6
    assert repr(data) == ("ImageDataset('arrays': 6 train, 6 validation, 3 test images of 8x8x3, 3 classes)")


def test_arrays_of_jax_lists_of_labels_and_views_are_taken():
    data = dataset(jnp.asarray(IMAGES)[:, ::-1], LABELS.tolist(), class_names=np.array(["a", "b", "c"]))
    np.testing.assert_array_equal(data.train.images, IMAGES[:, ::-1])
    assert dataset(IMAGES[:, ::2, ::2], test=(IMAGES[:, ::2, ::2], LABELS)).train.images.flags.c_contiguous
    assert [type(name) for name in data.class_names] == [str] * 3


WRONG = {
    "float pixels": (IMAGES / np.float32(255), LABELS, r"train images: .*got float32 \[6, 8, 8, 3\]: if they run from 0 to 1"),
    "boolean pixels": (IMAGES > 99, LABELS, "train images: .*got bool .*: convert them with 255 "),
    "wide pixels": (IMAGES.astype(np.int64), LABELS, "train images: .*got int64 .*: if they run from 0 to 255"),
    "no axis of channels": (IMAGES[..., 0], LABELS, r"got uint8 \[6, 8, 8\]: if they are grey, .*None"),
    "channels first": (IMAGES.transpose(0, 3, 1, 2), LABELS, r"looks like \[N, C, H, W\]: .*transpose"),
    "a single image": (IMAGES[0, 0], LABELS, r"expected uint8 \[N, H, W, C\], got uint8 \[8, 3\]: stack"),
    "no images": (IMAGES[:0], LABELS[:0], "train images: .*there are no pixels; give at least one image"),
    "no width": (IMAGES[:, :, :0], LABELS, "train images: .*there are no pixels"),
    "images of several sizes": ([IMAGES[0], IMAGES[1, :4]], LABELS[:2], "this list is no array .*one shape"),
    "float labels": (IMAGES, LABELS * 1.0, r"train labels: expected integers \[N\], got float64 \[6\]: .*astype"),
    "boolean labels": (IMAGES, LABELS > 0, r"train labels: .*got bool \[6\]: .*astype"),
    "names for labels": (IMAGES, np.array(list("abcabc")), "got <U1 .*give the position of each name"),
    "one-hot labels": (IMAGES, np.eye(3, dtype=int)[LABELS], r"got int64 \[6, 3\]: .*argmax\(1\)"),
    "a column of labels": (IMAGES, LABELS[:, None], r"got int64 \[6, 1\]: give labels.ravel\(\)"),
    "a label too many": (IMAGES, np.append(LABELS, 0), "train: there are 6 images, but 7 labels"),
    "a label without a name": (IMAGES, LABELS + 1, "they run from 1 to 3, expected 0 to 2, as there are 3"),
    "a negative label": (IMAGES, LABELS - 1, "they run from -1 to 1, expected 0 to 2"),
    "a huge label": (IMAGES, LABELS.astype(np.uint64) << np.uint64(32), "to 8589934592, expected 0 to 2"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arrays_are_refused_with_the_way_to_mend_them(case):
    images, labels, message = WRONG[case]
    with pytest.raises(DataError, match=message) as caught:
        dataset(images, labels)
    assert "\n" not in str(caught.value) and str(caught.value).startswith("arrays: train")


@pytest.mark.parametrize("part", ["train", "test", "validation"])
def test_every_split_is_checked(part):
    with pytest.raises(DataError, match=f"^arrays: {part} images: .*got float64"):
        dataset(**{part: (IMAGES / 255, LABELS)})
    with pytest.raises(DataError, match=f"^arrays: {part}: expected .images, labels., got a ndarray"):
        dataset(**{part: IMAGES})
    with pytest.raises(DataError, match=f"^arrays: {part}: .* got 3 things: give a tuple of two arrays"):
        dataset(**{part: (IMAGES, LABELS, LABELS)})


@pytest.mark.parametrize("part", ["test", "validation"])
@pytest.mark.parametrize(("images", "shape"), [(IMAGES[:, :4], "4x8x3"), (IMAGES[..., :1], "8x8x1")])
def test_images_of_another_shape_than_those_of_train_are_refused(part, images, shape):
    with pytest.raises(
        DataError, match=f"train images are 8x8x3, but the {part} images are {shape}: make all"
    ):
        dataset(**{part: (images, LABELS)})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abc", "class_names='abc': expected the names of the classes in the order of the labels"),
        ([0, 1, 2], r"class_names=\[0, 1, 2\]: expected the names"),
        (["a", "b", "a"], "two classes have the name 'a'"),
        (None, "has no classes"),
    ],
)
def test_class_names_are_different_strings(names, message):
    with pytest.raises(DataError, match=message):
        dataset(class_names=names)


def test_statistics_are_exact_and_the_mean_is_a_half_integer():
    images = np.random.default_rng(0).integers(0, 256, (2345, 5, 3, 3), np.uint8)
    images[..., 1] = images[..., 1] // 3
    images[..., 2] = 7
    mean, std = channel_statistics(channel_counts(images))
    exact = images.astype(np.float64)
    np.testing.assert_array_equal(mean, np.round(exact.mean(axis=(0, 1, 2)) * 2) / 2)
    np.testing.assert_allclose(std[:2], exact.std(axis=(0, 1, 2))[:2], rtol=1e-12)  # order of summation
    assert std[2] == 1 and mean[2] == 7
    assert mean.dtype == std.dtype == np.float64


def test_the_statistics_are_those_of_train():
    data = dataset(validation=(255 - IMAGES, LABELS))
    mean, std = channel_statistics(channel_counts(IMAGES))
    np.testing.assert_array_equal(data.mean, mean)
    np.testing.assert_array_equal(data.std, std)
    np.testing.assert_array_equal(
        data.with_train(data.validation).mean, channel_statistics(channel_counts(255 - IMAGES))[0]
    )


def test_the_checksum_is_that_of_all_bytes_of_train_in_their_order():
    images, labels = np.tile(IMAGES, (200, 1, 1, 1)), np.tile(LABELS, 200).astype(np.int32)
    assert dataset(images, labels).checksum() == f"{zlib.crc32(images.tobytes() + labels.tobytes()):08x}"
    assert dataset(images[::-1], labels).checksum() != dataset(images, labels).checksum()
