"""Archives in the published IDX format, written here byte by byte, read back to the last pixel; and where they lie."""

import gzip
import struct

import numpy as np
import pytest

from qresnet_jax.data import archives
from qresnet_jax.data.archives import DataError, read_idx, read_raw


def idx(array):
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def idx_set(folder, dot="-", zipped=True, size=28, seed=1):
    rng, arrays = np.random.default_rng(seed), {}
    folder.mkdir(parents=True, exist_ok=True)
    for part, n in (("train", 11), ("t10k", 5)):
        arrays[part] = (
            rng.integers(0, 256, (n, size, size), np.uint8),
            rng.integers(0, 10, n).astype(np.uint8),
        )
        for what, axes, array in (("images", 3, arrays[part][0]), ("labels", 1, arrays[part][1])):
            file = folder / f"{part}-{what}{dot}idx{axes}-ubyte{'.gz' * zipped}"
            file.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    return arrays


def assert_is_idx_set(raw, arrays):
    for got, (images, labels) in zip((raw.train, raw.test), arrays.values(), strict=True):
        np.testing.assert_array_equal(got.images, images[..., None])
        np.testing.assert_array_equal(got.labels["label"], labels)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("dot", ["-", "."])
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_sets_read_back(tmp_path, name, dot, zipped):
    arrays = idx_set(tmp_path / "any", dot, zipped)
    assert_is_idx_set(read_raw(name, tmp_path / "any"), arrays)
    assert_is_idx_set(read_raw(name, tmp_path), arrays)
    assert_is_idx_set(read_raw(name, next((tmp_path / "any").iterdir())), arrays)


def test_sets_with_the_same_file_names_are_told_apart_by_their_directories(tmp_path):
    digits, clothes = idx_set(tmp_path / "MNIST", seed=1), idx_set(tmp_path / "fashion-mnist", seed=2)
    assert_is_idx_set(read_raw("mnist", tmp_path), digits)
    assert_is_idx_set(read_raw("fashion_mnist", tmp_path), clothes)
    with pytest.raises(DataError, match="named after another set do not count"):
        read_raw("mnist", tmp_path / "fashion-mnist")
    idx_set(tmp_path / "other" / "a")
    idx_set(tmp_path / "other" / "b")
    with pytest.raises(DataError, match="give the right one as config.data.raw_dir"):
        read_raw("mnist", tmp_path / "other")


IDX_DAMAGES = {
    "magic": (lambda d: b"\0\0\x0d" + d[3:], "starts 00 00 08, not '00 00 0d 03'"),
    "cut": (lambda d: d[:-10], r"its header says \(11, 28, 28\), 8624 bytes, but 8614 follow"),
    "longer": (lambda d: d + b"1", "but 8625 follow"),
    "header": (lambda d: d[:6], "expected an IDX file"),
    "empty": (lambda d: b"", "expected an IDX file"),
    "cut gzip": (lambda d: gzip.compress(d)[:-20], "the gzip stream is cut or damaged"),
    "axes": (lambda d: idx(np.zeros(11, np.uint8)), "expected 3 axes, got 1"),
    "count": (lambda d: idx(np.zeros((10, 28, 28), np.uint8)), "10 train images, but 11 labels"),
    "70 axes": (lambda d: b"\0\0\x08\x46" + b"\0\0\0\1" * 70 + b"x", "its header says"),
    "axes of 0 and of 2**32": (lambda d: d[:4] + b"\0\0\0\0" + b"\xff" * 8, "its header says|0 train images"),
    "size": (
        lambda d: idx(np.zeros((11, 8, 8), np.uint8)),
        r"of shape \(8, 8, 1\), but those of mnist are \(28",
    ),
}


@pytest.mark.parametrize("damage", IDX_DAMAGES.values(), ids=IDX_DAMAGES.keys())
def test_a_damaged_idx_file_is_named_with_what_was_expected(tmp_path, damage):
    change, message = damage
    idx_set(tmp_path, zipped=False)
    file = tmp_path / "train-images-idx3-ubyte"
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=message) as error:
        read_raw("mnist", tmp_path)
    assert str(tmp_path) in str(error.value)


def test_an_idx_file_that_unpacks_to_fill_the_memory_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 2**21)
    idx_set(tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(2**23)))
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte.gz: it unpacks to more than 2097152 bytes"):
        read_raw("mnist", tmp_path)


@pytest.mark.parametrize("label", [10, 255])
def test_a_label_beyond_the_classes_is_named_with_its_file(tmp_path, label):
    idx_set(tmp_path, zipped=False)
    (tmp_path / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 3, label], np.uint8)))
    with pytest.raises(
        DataError, match=f"t10k-labels-idx1-ubyte: 'label' runs from 0 to {label}, but mnist has 10"
    ):
        read_raw("mnist", tmp_path)


def test_a_missing_companion_and_a_missing_directory_are_named(tmp_path):
    idx_set(tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte.*is missing"):
        read_raw("mnist", tmp_path)
    with pytest.raises(DataError, match="data.raw_dir='/nowhere' does not exist"):
        read_raw("mnist", "/nowhere")


def test_idx_of_any_number_of_axes(tmp_path):
    for shape in ((5,), (2, 3), (2, 3, 4, 1)):
        array = np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)
        (tmp_path / "x").write_bytes(idx(array))
        np.testing.assert_array_equal(read_idx(tmp_path / "x"), array)
