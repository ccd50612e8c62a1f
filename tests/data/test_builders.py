"""What is prepared here must be what TFDS prepares, all of it or nothing, and say so when it cannot be."""

import functools
import hashlib
import http.server
import json
import logging
import os
import pathlib
import socket
import struct
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from qresnet_jax.data import builders
from qresnet_jax.data.archives import DataError, read_raw

SHAPES = {"cifar10": (32, 32, 3), "cifar100": (32, 32, 3), "mnist": (28, 28, 1), "fashion_mnist": (28, 28, 1)}
COUNTS = {"train": 25, "test": 6}
NAMES10 = list("abcdefghij")


def write_archive(folder, name, seed=0):
    """A small archive in the published format: binary CIFAR or plain IDX."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in COUNTS.items():
        images = rng.integers(0, 256, (n, *SHAPES[name]), np.uint8)
        labels = rng.integers(0, 10, (n, 1), np.uint8)
        if "mnist" in name:
            stem = {"train": "train", "test": "t10k"}[part]
            head = b"\0\0\x08\x03" + struct.pack(">3I", n, 28, 28)
            (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + images.tobytes())
            head = b"\0\0\x08\x01" + struct.pack(">I", n)
            (folder / f"{stem}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
            continue
        coarse = rng.integers(0, 20, (n, 1), np.uint8)
        columns = [labels] if name == "cifar10" else [coarse, labels]
        records = np.hstack([*columns, images.transpose(0, 3, 1, 2).reshape(n, -1)])
        files = [f"{part}.bin"]
        if name == "cifar10":
            files = [f"data_batch_{i}.bin" for i in range(1, 6)] if part == "train" else ["test_batch.bin"]
        for file, chunk in zip(files, np.split(records, len(files)), strict=True):
            (folder / file).write_bytes(chunk.tobytes())
    if name == "cifar10":
        (folder / "batches.meta.txt").write_text("\n".join(NAMES10))
    elif name == "cifar100":
        (folder / "coarse_label_names.txt").write_text("\n".join(f"c{i}" for i in range(20)))
        (folder / "fine_label_names.txt").write_text("\n".join(f"f{i}" for i in range(100)))
    return folder


@pytest.mark.parametrize("name", builders.STANDARD)
def test_tfds_alone_reads_what_is_prepared_here(tmp_path, name):
    raw = read_raw(name, write_archive(tmp_path / "raw", name))
    directory = builders.prepare(name, tmp_path / "data", tmp_path / "raw")
    stock = tfds.builder(name, data_dir=tmp_path / "data", file_format="array_record")
    assert pathlib.Path(stock.data_dir) == directory
    readers = {"directory": tfds.builder_from_directory(directory), "stock": stock}
    for builder in readers.values():
        for part in ("train", "test"):
            expected = getattr(raw, part)
            examples = list(builder.as_data_source(part))
            assert len(examples) == COUNTS[part]
            # TFDS shuffles by key: find each example again by its pixels, which are all different here.
            index = {image.tobytes(): i for i, image in enumerate(expected.images)}
            order = [index[example["image"].tobytes()] for example in examples]
            assert sorted(order) == list(range(COUNTS[part])) and order != sorted(order)
            for i, example in zip(order, examples, strict=True):
                for key, labels in expected.labels.items():
                    assert example[key] == labels[i]
                if name.startswith("cifar"):
                    assert example["id"] == f"{part}_{i:05d}".encode()


@pytest.mark.parametrize("name", builders.STANDARD)
def test_name_version_features_and_class_names_are_those_of_stock_tfds(tmp_path, name):
    directory = builders.prepare(name, tmp_path / "data", write_archive(tmp_path / "raw", name))
    stock = tfds.builder_cls(name)
    fresh = stock(data_dir=tmp_path / "elsewhere", file_format="array_record")
    info = json.loads((directory / "dataset_info.json").read_text())
    assert info["name"] == name == stock.name
    assert info["version"] == str(stock.VERSION) == directory.name
    assert info["fileFormat"] == "array_record"
    assert {s["name"]: s["shardLengths"] for s in info["splits"]} == {"train": ["25"], "test": ["6"]}
    (tmp_path / "stock").mkdir()
    fresh.info.features.save_config(tmp_path / "stock")
    assert (directory / "features.json").read_text() == (tmp_path / "stock" / "features.json").read_text()
    names = {"cifar10": NAMES10, "cifar100": [f"f{i}" for i in range(100)]}  # of the archive
    expected = names.get(name) or fresh.info.features["label"].names
    assert tfds.builder_from_directory(directory).info.features["label"].names == expected
    assert stock is tfds.builder_cls(name), "ours must not take the stock builder's place"


def test_keys_and_ids_are_those_of_the_stock_generator(tmp_path):
    """The keys alone decide the order that TFDS shuffles into."""
    raw = read_raw("cifar10", write_archive(tmp_path / "raw", "cifar10"))
    builder = builders._builder_class("cifar10")(data_dir=tmp_path / "data", file_format="array_record")
    builder.raw = raw
    ours = list(builder._split_generators(None)["train"])
    assert [key for key, _ in ours] == list(range(25))  # stock: "Using index as key"
    assert [example["id"] for _, example in ours] == [f"train_{i:05d}" for i in range(25)]


def test_checksums_and_urls_are_those_of_stock_tfds():
    for name in builders.STANDARD:
        stock = {url: info.checksum for url, info in tfds.builder_cls(name).url_infos.items()}
        assert stock == builders.SOURCES[name]


def test_a_second_preparation_says_so_and_does_nothing(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="qresnet_jax")
    directory = builders.prepare("mnist", tmp_path / "data", write_archive(tmp_path / "raw", "mnist"))
    before = {path: path.stat().st_mtime_ns for path in directory.iterdir()}
    assert builders.prepare("mnist", tmp_path / "data", "/nowhere") == directory
    assert {path: path.stat().st_mtime_ns for path in directory.iterdir()} == before
    assert f"mnist is already prepared in {directory}" in caplog.text


@pytest.mark.parametrize("signal", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_preparation_leaves_nothing_behind(tmp_path, monkeypatch, signal):
    png, raw_dir = builders._png, write_archive(tmp_path / "raw", "mnist")
    calls = []

    def interrupted(image):
        calls.append(1)
        if len(calls) > 27:  # in the second split
            raise signal
        return png(image)

    monkeypatch.setattr(builders, "_png", interrupted)
    with pytest.raises(signal):
        builders.prepare("mnist", tmp_path / "data", raw_dir)
    assert builders.prepared_dir("mnist", tmp_path / "data") is None
    assert list((tmp_path / "data").rglob("*array_record*")) == []
    monkeypatch.undo()
    assert builders.prepare("mnist", tmp_path / "data", raw_dir).is_dir()


def test_a_killed_preparation_does_not_look_prepared(tmp_path):
    raw_dir = write_archive(tmp_path / "raw", "mnist")
    code = f"""
import os
from qresnet_jax.data import builders
count = iter(range(28))
png = builders._png
builders._png = lambda image: png(image) if next(count) < 27 else os._exit(9)
builders.prepare("mnist", {str(tmp_path / "data")!r}, {str(raw_dir)!r})
"""
    root = pathlib.Path(builders.__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(root)}, check=False, timeout=120
    )
    assert done.returncode == 9
    assert list((tmp_path / "data").rglob("*")), "something was written before the end"
    assert builders.prepared_dir("mnist", tmp_path / "data") is None
    assert builders.prepare("mnist", tmp_path / "data", raw_dir).is_dir()


def test_a_directory_without_its_description_is_in_the_way(tmp_path):
    raw_dir = write_archive(tmp_path / "raw", "mnist")
    directory = builders.prepare("mnist", tmp_path / "data", raw_dir)
    (directory / "dataset_info.json").unlink()
    with pytest.raises(DataError, match="has no dataset_info.json: delete it and prepare again"):
        builders.prepare("mnist", tmp_path / "data", raw_dir)


def test_a_tilde_is_the_home_directory(home):
    write_archive(home / "raw", "mnist")
    directory = builders.prepare("mnist", "~/data", "~/raw")
    assert home in directory.parents and builders.prepared_dir("mnist", "~/data") == directory


def test_a_data_dir_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a directory")
    for place in ("file", "file/data", "file/data/sets"):
        with pytest.raises(
            DataError, match="mnist could not be prepared in .*/file is a file, not a directory"
        ):
            builders.prepare("mnist", tmp_path / place, tmp_path / "nothing is read")


# ---- Downloads, from a server on this machine --------------------------------------------------------------


@pytest.fixture
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")


@pytest.fixture
def server(tmp_path, monkeypatch, no_proxy):
    """Serves a small MNIST in place of the real source; gives the list of requested paths."""
    folder, requests = write_archive(tmp_path / "served", "mnist"), []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_request(self, *_):
            requests.append(self.path)

        def log_error(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/"
    sums = {base + p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
    monkeypatch.setitem(builders.SOURCES, "mnist", sums)
    yield requests
    server.shutdown()
    server.server_close()


def test_a_download_is_verified_prepared_and_not_repeated(tmp_path, server):
    directory = builders.prepare("mnist", tmp_path / "data")
    assert len(tfds.builder_from_directory(directory).as_data_source("train")) == 25
    assert len(server) == 4
    for path in directory.iterdir():
        path.unlink()
    directory.rmdir()
    builders.prepare("mnist", tmp_path / "data")
    assert len(server) == 4, "the verified files are kept"


def test_a_changed_download_is_refused_and_removed(tmp_path, server, monkeypatch):
    url = next(iter(builders.SOURCES["mnist"]))
    monkeypatch.setitem(builders.SOURCES["mnist"], url, "0" * 64)
    with pytest.raises(DataError, match=f"{url}.*expected SHA-256 {'0' * 64}, got .*, [0-9]+ bytes"):
        builders.prepare("mnist", tmp_path / "data")
    assert not [path for path in (tmp_path / "data").rglob("*") if path.is_file()]


def test_a_vanished_file_is_reported_with_the_servers_answer(tmp_path, server, monkeypatch):
    gone = next(iter(builders.SOURCES["mnist"])) + ".gone"
    monkeypatch.setitem(builders.SOURCES, "mnist", {gone: "0" * 64})
    with pytest.raises(DataError, match="404.*--mode=prepare_data"):
        builders.prepare("mnist", tmp_path / "data")


@pytest.mark.parametrize("name", builders.STANDARD)
def test_offline_the_answer_comes_at_once_and_names_the_command(tmp_path, monkeypatch, no_proxy, name):
    with socket.socket() as closed:  # bound, not listening: connections are refused
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x.gz"
        monkeypatch.setitem(builders.SOURCES, name, {url: "0" * 64})
        start = time.monotonic()
        with pytest.raises(DataError) as error:
            builders.prepare(name, tmp_path / "data")
    assert time.monotonic() - start < 5
    assert "qresnet --config=... --mode=prepare_data --config.data.raw_dir=DIR" in str(error.value)
    assert f"--config.data.data_dir={tmp_path / 'data'}" in str(error.value)
    assert ("/usr/share/datasets/fashion-mnist" in str(error.value)) == (name == "fashion_mnist")


def test_a_server_that_never_answers_is_given_up(tmp_path, monkeypatch, no_proxy):
    assert builders.CONNECT_SECONDS < 5
    monkeypatch.setattr(builders, "CONNECT_SECONDS", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.gz"
        monkeypatch.setitem(builders.SOURCES, "mnist", {url: "0" * 64})
        with pytest.raises(DataError, match=r"no answer within 0.5 s"):
            builders.prepare("mnist", tmp_path / "data")


def test_an_answer_that_comes_too_late_is_closed(monkeypatch):
    asked, answered, closed = threading.Event(), threading.Event(), threading.Event()

    def slow(url, timeout):
        asked.set()
        answered.wait(30)
        return SimpleNamespace(close=closed.set)

    monkeypatch.setattr(builders.urllib.request, "urlopen", slow)
    monkeypatch.setattr(builders, "CONNECT_SECONDS", 0.05)
    with pytest.raises(TimeoutError, match=r"no answer within 0.05 s"):
        builders._open("http://example.invalid")
    assert asked.wait(30)
    answered.set()
    assert closed.wait(30)


# ---- Finding what is prepared ------------------------------------------------------------------------------


def test_a_name_finds_its_version_and_configuration(tmp_path, monkeypatch):
    for place in ("a/1.2.0", "a/1.10.0", "b/red/1.0.0", "c/red/1.0.0", "c/blue/2.0.0"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "dataset_info.json").write_text("{}")
    (tmp_path / "a" / "9.0.0").mkdir()  # without a description
    (tmp_path / "a" / "incomplete.X_9.0.0").mkdir()
    (tmp_path / "a" / "incomplete.X_9.0.0" / "dataset_info.json").write_text("{}")
    found = {
        "a": "a/1.10.0",
        "a:1.2.0": "a/1.2.0",
        "b": "b/red/1.0.0",
        "b/red": "b/red/1.0.0",
        "c/blue:2.0.0": "c/blue/2.0.0",
    }
    for name, place in found.items():
        assert builders.prepared_dir(name, tmp_path) == tmp_path / place
    for name in ("a:3.0.0", "d", "d/red", "b/blue", "a/red"):
        assert builders.prepared_dir(name, tmp_path) is None
    with pytest.raises(DataError, match="choose one of c/blue, c/red"):
        builders.prepared_dir("c", tmp_path)
    with pytest.raises(DataError, match="expected name, name/config or name/config:1.2.3"):
        builders.prepared_dir("../etc", tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert builders.prepared_dir("a") == tmp_path / "a/1.10.0"
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert builders.data_root("") == pathlib.Path.home() / "tensorflow_datasets"
