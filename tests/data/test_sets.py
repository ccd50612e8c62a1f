"""Sets by name: splits, statistics, and a message for every way in which a set can be unusable."""

import logging
import pathlib
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from qresnet_jax.data import DataError, Split, builders, load_dataset, prepare_dataset
from tests.data.set_cases import config, write_mnist

FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


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


def test_train_images_of_a_single_class_are_reported(monkeypatch, caplog):
    two = Split(np.zeros((4, 2, 2, 1), np.uint8), np.array([1, 1, 1, 0], np.int32))
    monkeypatch.setattr("qresnet_jax.data.sets._digits", lambda: (two, two, ("no", "yes")))
    load_dataset(config("digits", holdout=0))
    assert not caplog.text
    load_dataset(config("digits", holdout=0.25))
    assert "digits: all train images are of class 'yes', so there is nothing to learn" in caplog.text


@pytest.mark.parametrize("holdout", [-0.1, 1, 2, float("nan")])
def test_a_holdout_that_is_no_fraction_is_refused(holdout):
    with pytest.raises(DataError, match="data.holdout=.*at least 0 and below 1"):
        load_dataset(config("digits", holdout=holdout))


# ---- Preparing -----------------------------------------------------------------------------------------------


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


def test_importing_is_light():
    code = "import sys, qresnet_jax.data.sets; print([m for m in sys.modules if '.' not in m])"
    root = pathlib.Path(builders.__file__).parents[2]
    out = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True, timeout=120
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
