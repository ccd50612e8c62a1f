"""Sets by name: splits, statistics, and a message for every way in which a set can be unusable."""

import io
import json
import logging
import pathlib
import socket
import struct
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.data import DataError, builders, load_dataset, prepare_dataset
from qresnet_jax.data.sets import _channel_statistics, _decode

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


def config(name, data_dir="", raw_dir="", **more):
    return SimpleNamespace(name=name, data_dir=str(data_dir), raw_dir=str(raw_dir), **more)


def write_mnist(folder, n=25, n_test=6):
    rng = np.random.default_rng(n)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for stem, count in (("train", n), ("t10k", n_test)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        head = b"\0\0\x08\x03" + struct.pack(">3I", *images.shape)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = b"\0\0\x08\x01" + struct.pack(">I", count)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
        arrays.append((images[..., None], labels))
    return arrays


@pytest.fixture
def mnist(tmp_path):
    """Config of a small prepared MNIST, its directory and its arrays."""
    arrays = write_mnist(tmp_path / "raw")
    cfg = config("mnist", tmp_path / "data", tmp_path / "raw")
    return cfg, prepare_dataset(cfg), arrays


# ---- Digits ------------------------------------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    stored = load_digits()
    data = load_dataset(config("digits", holdout=0))
    assert data.train.images.shape == (1437, 8, 8, 1) and data.test.images.shape == (360, 8, 8, 1)
    assert data.train.images.dtype == np.uint8 and data.train.labels.dtype == np.int32
    images = np.concatenate([data.train.images, data.test.images])[..., 0]
    np.testing.assert_array_equal(
        images, [[[round(v * 255 / 16) for v in row] for row in x] for x in stored.images]
    )
    np.testing.assert_array_equal(np.concatenate([data.train.labels, data.test.labels]), stored.target)
    assert data.class_names == tuple("0123456789") and data.name == "digits" and data.validation is None
    assert prepare_dataset(config("digits")).is_file()


def test_the_validation_split_is_the_end_of_train():
    whole = load_dataset(config("digits", holdout=0))
    for holdout, n in ((0.1, 143), (0.5, 718), (None, 143)):
        more = {} if holdout is None else {"holdout": holdout}
        data = load_dataset(config("digits", **more))
        assert len(data.validation.images) == len(data.validation.labels) == n
        for i in (0, 1):
            both = np.concatenate([data.train[i], data.validation[i]])
            np.testing.assert_array_equal(both, whole.train[i])
            np.testing.assert_array_equal(data.test[i], whole.test[i])
        np.testing.assert_allclose(data.std, data.train.images.std(axis=(0, 1, 2)))


@pytest.mark.parametrize("holdout", [-0.1, 1, 2, float("nan")])
def test_a_holdout_that_is_no_fraction_is_refused(holdout):
    with pytest.raises(DataError, match="data.holdout=.*at least 0 and below 1"):
        load_dataset(config("digits", holdout=holdout))


def test_statistics_are_exact_and_the_mean_is_a_half_integer():
    images = np.random.default_rng(0).integers(0, 256, (2345, 5, 3, 3), np.uint8)
    images[..., 1] = images[..., 1] // 3
    images[..., 2] = 7
    mean, std = _channel_statistics(images)
    exact = images.astype(np.float64)
    np.testing.assert_array_equal(mean, np.round(exact.mean(axis=(0, 1, 2)) * 2) / 2)
    np.testing.assert_allclose(std[:2], exact.std(axis=(0, 1, 2))[:2], rtol=1e-12)  # order of summation
    assert std[2] == 1 and mean[2] == 7
    assert mean.dtype == std.dtype == np.float64


# ---- Prepared sets -----------------------------------------------------------------------------------------


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


def test_loading_prepares_what_is_not_prepared(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="qresnet_jax")
    write_mnist(tmp_path / "raw")
    data = load_dataset(config("mnist", tmp_path / "data", tmp_path / "raw"))
    assert len(data.test.labels) == 6
    assert "mnist is not prepared in" in caplog.text


def test_a_prepared_set_needs_no_network(mnist, monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a network call")

    cfg, directory, _ = mnist
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    cfg.raw_dir = ""
    assert len(load_dataset(cfg).test.labels) == 6
    assert prepare_dataset(cfg) == directory


def test_offline_loading_fails_within_five_seconds(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x.gz"
        monkeypatch.setitem(builders.SOURCES, "fashion_mnist", {url: "0" * 64})
        start = time.monotonic()
        with pytest.raises(DataError, match="--mode=prepare_data .*dataset-fashion-mnist provides them"):
            load_dataset(config("fashion_mnist", tmp_path))
    assert time.monotonic() - start < 5


def test_an_unknown_name_lists_the_known_ones(mnist):
    cfg, _, _ = mnist
    for function in (load_dataset, prepare_dataset):
        with pytest.raises(
            DataError, match="'cifar11' is not known. .*digits, cifar10, .*: mnist. .*tfds build"
        ):
            function(config("cifar11", cfg.data_dir))


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
def test_a_damaged_shard_is_named(mnist, part, damage):
    cfg, directory, _ = mnist
    path = shard(directory, part)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as error:
        load_dataset(cfg)
    assert f"{path} is damaged" in str(error.value)
    assert f"Delete {directory} and prepare the set again" in str(error.value)


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


def rewrite(directory, change):
    info = json.loads((directory / "dataset_info.json").read_text())
    change(info)
    (directory / "dataset_info.json").write_text(json.dumps(info))


def test_another_file_format_is_refused_unless_array_record_lies_beside_it(mnist):
    cfg, directory, _ = mnist
    rewrite(directory, lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(DataError, match="holds tfrecord files, .*tfds convert_format --dataset_version_dir="):
        load_dataset(cfg)
    rewrite(directory, lambda info: info.update(alternativeFileFormats=["array_record"]))
    assert len(load_dataset(cfg).test.labels) == 6


# ---- Any other set that TFDS has prepared ------------------------------------------------------------------


def prepare_other(data_dir, features, splits):
    """Prepares the set "other" with TFDS; splits: name -> list of examples."""
    import tensorflow_datasets as tfds

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = pathlib.Path(__file__).parent

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {name: enumerate(examples) for name, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Other(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return config("other", data_dir)


def picture(shape, form="PNG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return io.BytesIO(buffer.getvalue()), pixels


def features(shape=(6, 5, 3), **more):
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=["no", "yes"]),
    } | more


def test_a_set_prepared_by_tfds_is_read_and_validation_stands_in_for_test(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="qresnet_jax")
    pixels = [picture((6, 5, 3), seed=i)[1] for i in range(4)]
    examples = [{"image": picture((6, 5, 3), seed=i)[0], "label": i % 2} for i in range(4)]
    cfg = prepare_other(tmp_path, features(), {"train": examples[:3], "validation": examples[3:]})
    data = load_dataset(cfg)
    np.testing.assert_array_equal(data.test.images, pixels[3:])
    assert sorted(map(bytes, data.train.images)) == sorted(map(bytes, pixels[:3]))
    assert data.validation is None and data.class_names == ("no", "yes")  # floor(3 * 0.1) images
    assert "no test split: its validation split is used as test" in caplog.text
    assert (
        prepare_dataset(cfg) == load_dataset(config("other:1.0.0", tmp_path)) or prepare_dataset(cfg).is_dir()
    )


def test_sets_that_do_not_fit_are_refused_with_the_reason(tmp_path):
    import tensorflow_datasets as tfds

    def example(shape=(6, 5, 3), label=0):
        return {"image": picture(shape)[0], "label": label}

    def two(train=(6, 5, 3), test=(6, 5, 3), label=0):
        return {"train": [example(), example(train)], "test": [example(test, label)]}

    def bare():
        return {part: [{"image": picture((6, 5, 3))[0]}] for part in ("train", "test")}

    wide = features() | {"image": tfds.features.Image(shape=(6, 5, 3), dtype=np.uint16)}
    cases = {
        "size": (features((None, None, 3)), two(train=(7, 5, 3)), "images of one size.*not supported yet"),
        "sizes": (features((None, None, 3)), two(test=(9, 9, 3)), "images of one size"),
        "test": (features(), {"train": [example()]}, r"splits train and test, got \['train'\]"),
        "label": ({"image": wide["image"]}, bare(), "expected the features 'image'.* and 'label'"),
        "uint16": (wide, two(), "expected uint8 images, got uint16"),
        "hidden": (features(), two(label=-1), "a split without labels"),
    }
    for name, (described, splits, message) in cases.items():
        cfg = prepare_other(tmp_path / name, described, splits)
        with pytest.raises(DataError, match=message):
            load_dataset(cfg)


def test_pictures_of_every_mode_get_the_declared_channels():
    for shape, channels in (((4, 3), 1), ((4, 3), None), ((4, 3, 3), 3), ((4, 3, 3), None), ((4, 3, 4), 4)):
        for form in ("PNG", "TIFF"):
            file, pixels = picture(shape, form)
            np.testing.assert_array_equal(_decode(file.getvalue(), channels), pixels.reshape(4, 3, -1))
    file, pixels = picture((4, 3))
    np.testing.assert_array_equal(_decode(file.getvalue(), 3), np.repeat(pixels[..., None], 3, axis=2))
    assert _decode(picture((4, 3, 3), "JPEG")[0].getvalue(), 3).shape == (4, 3, 3)


def test_importing_is_light():
    code = "import sys, qresnet_jax.data.sets; print([m for m in sys.modules if '.' not in m])"
    root = pathlib.Path(builders.__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    for heavy in ("tensorflow_datasets", "tensorflow", "sklearn", "PIL", "array_record"):
        assert f"'{heavy}'" not in out


@pytest.mark.skipif(not FASHION.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_real_fashion_mnist_archive():
    from qresnet_jax.data.archives import read_raw

    raw = read_raw("fashion_mnist", FASHION)
    assert raw.train.images.shape == (60_000, 28, 28, 1) and raw.test.images.shape == (10_000, 28, 28, 1)
    assert np.bincount(raw.train.labels["label"]).tolist() == [6000] * 10
    assert raw.train.labels["label"][:5].tolist() == [9, 0, 0, 3, 0]  # as published
