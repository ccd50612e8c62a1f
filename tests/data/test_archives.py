"""Archives in their published formats, written here byte by byte, read back to the last pixel."""

import gzip
import io
import os
import pickle
import struct
import tarfile
from typing import ClassVar

import numpy as np
import pytest

from qresnet_jax.data.archives import DataError, load_pickle, read_idx, read_raw

NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FINE = [f"fine_{i}" for i in range(100)]
COARSE = [f"coarse_{i}" for i in range(20)]
PER_BATCH = 7


class Python2Pickler(pickle._Pickler):
    """Writes str and bytes as Python 2 wrote its str: the published CIFAR archives are of that time."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode("latin1") if isinstance(value, str) else value
        if len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


PICKLERS = {
    "python2": python2_pickle,
    "protocol2": lambda value: pickle.dumps(value, protocol=2),
    "bytes_keys": lambda value: pickle.dumps({k.encode(): v for k, v in value.items()}, protocol=2),
    "newest": lambda value: pickle.dumps(value, protocol=5),
}


def cifar(name, seed=0):
    """Batches of images [N, 32, 32, 3] and labels, split by split, and the class names."""
    rng = np.random.default_rng(seed)
    keys = {"label": 10} if name == "cifar10" else {"coarse_label": 20, "label": 100}

    def batch():
        images = rng.integers(0, 256, (PER_BATCH, 32, 32, 3), np.uint8)
        return images, {key: rng.integers(0, n, PER_BATCH) for key, n in keys.items()}

    return [batch() for _ in range(5 if name == "cifar10" else 1)], [batch()]


def rows(images):
    """One image a row: 1024 red, 1024 green, 1024 blue."""
    return np.array(
        [[image[y, x, c] for c in range(3) for y in range(32) for x in range(32)] for image in images]
    )


def cifar_files(name, form, dumps=python2_pickle):
    """File name -> contents, as unpacked from the published archive."""
    train, test = cifar(name)
    train_names = [f"data_batch_{i}" for i in range(1, 6)] if name == "cifar10" else ["train"]
    named = [*zip(train_names, train, strict=True), ("test_batch" if name == "cifar10" else "test", test[0])]
    files = {}
    for file, (images, labels) in named:
        if form == "binary":
            columns = [labels[key][:, None].astype(np.uint8) for key in labels]
            files[f"{file}.bin"] = np.hstack([*columns, rows(images)]).tobytes()
        else:
            stored = (
                {"label": "labels"}
                if name == "cifar10"
                else {"label": "fine_labels", "coarse_label": "coarse_labels"}
            )
            batch = {"data": rows(images), "batch_label": file, "filenames": ["a.png"] * PER_BATCH}
            files[file] = dumps(batch | {stored[key]: labels[key].tolist() for key in labels})
    if name == "cifar10" and form == "python":
        files["batches.meta"] = dumps({"label_names": NAMES10, "num_vis": 3072})
    elif name == "cifar10":
        files["batches.meta.txt"] = "\n".join([*NAMES10, "", ""]).encode()
    elif form == "python":
        files["meta"] = dumps({"fine_label_names": FINE, "coarse_label_names": COARSE})
    else:
        files |= {"fine_label_names.txt": "\n".join(FINE).encode() + b"\n"}
        files |= {"coarse_label_names.txt": "\n".join(COARSE).encode() + b"\n"}
    return files


def pack(path, folder, files):
    with tarfile.open(path, "w:gz") as tar:
        for file, data in files.items():
            member = tarfile.TarInfo(f"{folder}/{file}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def unpack(folder, files):
    folder.mkdir(parents=True)
    for file, data in files.items():
        (folder / file).write_bytes(data)
    return folder


def assert_is_cifar(raw, name):
    for got, batches in zip((raw.train, raw.test), cifar(name), strict=True):
        np.testing.assert_array_equal(got.images, np.concatenate([images for images, _ in batches]))
        assert got.images.dtype == np.uint8
        assert got.labels.keys() == batches[0][1].keys()
        for key in got.labels:
            np.testing.assert_array_equal(
                got.labels[key], np.concatenate([labels[key] for _, labels in batches])
            )
    expected = {"label": NAMES10} if name == "cifar10" else {"label": FINE, "coarse_label": COARSE}
    assert raw.class_names == expected


@pytest.mark.parametrize("form", ["python", "binary"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_the_same_packed_and_unpacked_and_wherever_it_lies(tmp_path, name, form):
    files, stem = cifar_files(name, form), name.replace("cifar", "cifar-")
    archive = pack(tmp_path / f"{stem}-{form}.tar.gz", f"{stem}-folder", files)
    assert_is_cifar(read_raw(name, tmp_path), name)
    assert_is_cifar(read_raw(name, str(archive)), name)
    (tmp_path / "above").mkdir()
    archive.rename(tmp_path / "above" / archive.name)
    assert_is_cifar(read_raw(name, tmp_path), name)
    folder = unpack(tmp_path / "unpacked" / f"{stem}-folder", files)
    assert_is_cifar(read_raw(name, folder), name)
    assert_is_cifar(read_raw(name, folder.parent), name)


@pytest.mark.parametrize("dumps", PICKLERS.values(), ids=PICKLERS.keys())
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_every_dialect_of_pickle_is_read(tmp_path, name, dumps):
    assert_is_cifar(read_raw(name, unpack(tmp_path / "x", cifar_files(name, "python", dumps))), name)


def test_the_python2_pickles_are_really_old():
    data = cifar_files("cifar10", "python")["test_batch"]
    assert b"cnumpy.core.multiarray\n_reconstruct" in data and b"_codecs" not in data
    assert pickle.loads(data, encoding="latin1")["batch_label"] == "test_batch"


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_would_run_code_is_refused_and_runs_nothing(tmp_path, protocol):
    files = cifar_files("cifar10", "python")
    files["data_batch_2"] = pickle.dumps({"data": Malicious(tmp_path / "owned")}, protocol)
    archive = pack(tmp_path / "cifar-10-python.tar.gz", "x", files)
    with pytest.raises(DataError, match=r"data_batch_2: refused to load \w+.system"):
        read_raw("cifar10", archive)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    "value",
    [
        np.array([{}], dtype=object),
        np.dtype([("a", "u1")]),
        eval,
        np.load,
        pickle.loads,
        io.open,
        np.zeros(2, "U3"),
    ],
    ids=["array of objects", "record", "eval", "np.load", "pickle.loads", "io.open", "array of texts"],
)
def test_only_arrays_of_numbers_pass_the_unpickler(value):
    with pytest.raises(DataError, match="here: refused"):
        load_pickle(pickle.dumps({"data": value}, 2), "here")


def test_numpy_scalars_and_both_byte_orders_pass_the_unpickler():
    value = {"a": np.int64(3), "b": np.arange(3, dtype=">i2"), "c": np.asfortranarray(np.eye(3, 2))}
    for protocol in range(6):
        got = load_pickle(pickle.dumps(value, protocol), "here")
        assert got["a"] == 3
        np.testing.assert_array_equal(got["b"], [0, 1, 2])
        np.testing.assert_array_equal(got["c"], np.eye(3, 2))
    assert np.dtype(">i2").byteorder == ">" and np.dtype("u1") == np.uint8


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9, 0.999])
def test_a_cut_tar_archive_is_named(tmp_path, keep):
    archive = pack(tmp_path / "cifar-10-binary.tar.gz", "x", cifar_files("cifar10", "binary"))
    data = archive.read_bytes()
    archive.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(DataError, match=r"cifar-10-binary.tar.gz: (expected a tar.gz archive|data_batch)"):
        read_raw("cifar10", tmp_path)


def batch(images, **more):
    """A pickled batch, to spoil one."""
    return lambda _: pickle.dumps({"data": images, **more})


DAMAGES = {
    "cut record": ("binary", "data_batch_3.bin", lambda d: d[:-1], r"3.bin: 21510 bytes, .*multiple of 3073"),
    "empty": ("binary", "test_batch.bin", lambda d: b"", "test_batch.bin: 0 bytes"),
    "label": ("binary", "test_batch.bin", lambda d: b"\x0a" + d[1:], "runs from . to 10, but cifar10 has 10"),
    "missing": ("python", "data_batch_4", None, "data_batch_4 missing"),
    "cut pickle": ("python", "data_batch_1", lambda d: d[:900], "data_batch_1: not a complete pickle"),
    "no pickle": ("python", "data_batch_1", lambda d: b"hello", "data_batch_1: not a complete pickle"),
    "a list": ("python", "test_batch", lambda d: pickle.dumps([1]), "a pickled dictionary, got list"),
    "pixels": (
        "python",
        "test_batch",
        batch(np.zeros((7, 9), "u1")),
        r"uint8 \[N, 3072\], got uint8 \(7, 9\)",
    ),
    "labels": ("python", "test_batch", batch(np.zeros((7, 3072), "u1"), labels=[1, 2]), "to be 7 integers"),
    "no labels": ("python", "test_batch", batch(np.zeros((7, 3072), "u1")), "'labels' to be 7 integers"),
    "names": ("binary", "batches.meta.txt", lambda d: b"cat\ndog\n", "expected 10 names of 'label', got 2"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_file_is_named_with_what_was_expected(tmp_path, damage):
    form, file, change, message = damage
    files = cifar_files("cifar10", form)
    if change is None:
        del files[file]
    else:
        files[file] = change(files[file])
    with pytest.raises(DataError, match=message):
        read_raw("cifar10", unpack(tmp_path / "x", files))


def test_an_archive_of_the_other_cifar_is_refused(tmp_path):
    archive = pack(tmp_path / "cifar-100-binary.tar.gz", "x", cifar_files("cifar100", "binary"))
    with pytest.raises(DataError, match="not an archive of cifar10"):
        read_raw("cifar10", archive)
    with pytest.raises(DataError, match="cifar10: found neither cifar-10-python.tar.gz"):
        read_raw("cifar10", tmp_path)


def test_without_its_file_of_names_an_archive_still_reads(tmp_path, caplog):
    files = cifar_files("cifar10", "python")
    del files["batches.meta"]
    raw = read_raw("cifar10", unpack(tmp_path / "x", files))
    assert raw.class_names == {} and "the classes of 'label' are numbered" in caplog.text
    assert "35 train images, but the original has 50000" in caplog.text


# ---- IDX ---------------------------------------------------------------------------------------------------


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
