"""A published set that TFDS has prepared: its images and classes, and a message for each way to be damaged."""

import os
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest

from qresnet_jax.data import DataError, load_dataset
from tests.data.set_cases import rewrite


def test_a_prepared_set_holds_every_image_with_its_label(mnist):
    cfg, _, (train, test) = mnist
    data = load_dataset(cfg)
    assert len(data.train.labels) == 23 and len(data.validation.labels) == 2  # floor(25 * 0.1)
    assert data.class_names == tuple("0123456789")
    for splits, (images, labels) in (((data.train, data.validation), train), ((data.test,), test)):
        got = [(x.tobytes(), y) for split in splits for x, y in zip(split.images, split.labels, strict=True)]
        assert sorted(got) == sorted((x.tobytes(), y) for x, y in zip(images, labels, strict=True))
        assert all(split.images.dtype == np.uint8 and split.labels.dtype == np.int32 for split in splits)


def test_the_order_is_that_of_tfds(mnist):
    import tensorflow_datasets as tfds

    cfg, directory, _ = mnist
    data = load_dataset(SimpleNamespace(**vars(cfg), holdout=0))
    for part in ("train", "test"):
        examples = list(tfds.builder_from_directory(directory).as_data_source(part))
        np.testing.assert_array_equal(getattr(data, part).images, [e["image"] for e in examples])
        np.testing.assert_array_equal(getattr(data, part).labels, [e["label"] for e in examples])


def shard(directory, part="train"):
    (path,) = directory.glob(f"*{part}.array_record*")
    return path


def flip(data):
    i = data.index(b"IDAT") + 20
    return data[:i] + bytes([data[i] ^ 255]) + data[i + 1 :]


DAMAGES = {
    "cut": lambda d: d[: len(d) // 2],
    "last byte": lambda d: d[:-1],
    "empty": lambda d: b"",
    "garbage": lambda d: np.random.default_rng(0).bytes(len(d)),
    "one byte": flip,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_damaged_shard_is_named_and_closed(mnist, part, damage):
    cfg, directory, _ = mnist
    path = shard(directory, part)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as error:
        load_dataset(cfg)
    assert f"{path} is damaged" in str(error.value)
    assert f"Delete {directory} and prepare the set again" in str(error.value)
    opened = [os.readlink(file) for file in pathlib.Path("/proc/self/fd").iterdir() if file.is_symlink()]
    assert str(path) not in opened  # although the error, with its traceback, is still there


def test_a_missing_shard_and_one_of_another_length_are_named(mnist):
    cfg, directory, _ = mnist
    shard(directory).write_bytes(shard(directory, "test").read_bytes())
    with pytest.raises(DataError, match="train.* is damaged .expected 25 records, got 6"):
        load_dataset(cfg)
    shard(directory).unlink()
    with pytest.raises(DataError, match="train.*is damaged .the file is missing"):
        load_dataset(cfg)


@pytest.mark.parametrize("file", ["dataset_info.json", "features.json"])
def test_a_damaged_description_is_named(mnist, file):
    cfg, directory, _ = mnist
    (directory / file).write_text('{"name": ')
    with pytest.raises(
        DataError, match="description of the set is damaged .*Delete .* and prepare the set again"
    ):
        load_dataset(cfg)


def test_another_file_format_is_refused_unless_array_record_lies_beside_it(mnist):
    cfg, directory, _ = mnist
    rewrite(directory, lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(DataError, match="holds tfrecord files, .*tfds convert_format --dataset_version_dir="):
        load_dataset(cfg)
    rewrite(directory, lambda info: info.update(alternativeFileFormats=["array_record"]))
    assert len(load_dataset(cfg).test.labels) == 6
