"""CIFAR archives in both of their published forms, written here byte by byte, read back to the last pixel."""

import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from qresnet_jax.data import archives
from qresnet_jax.data.archives import DataError, read_raw
from tests.data.pickle_cases import PICKLERS, python2_pickle

NAMES10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FINE = [f"fine_{i}" for i in range(100)]
COARSE = [f"coarse_{i}" for i in range(20)]
PER_BATCH = 7


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


NESTED = [[]]
for _ in range(60):
    NESTED = [NESTED, NESTED]  # as an array or a text, it would fill any memory

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
    "label that int64 cannot hold": (
        "python",
        "test_batch",
        batch(np.zeros((2, 3072), "u1"), labels=np.array([2**63, 1], "u8")),
        "'label' runs from 1 to 9223372036854775808, but cifar10 has 10 classes",
    ),
    "label of 100 bits": (
        "python",
        "test_batch",
        batch(np.zeros((2, 3072), "u1"), labels=[1, 2**100]),
        "got object",
    ),
    "labels of both signs": (
        "python",
        "test_batch",
        batch(np.zeros((2, 3072), "u1"), labels=[-1, 2**63]),
        "to be 2 integers",
    ),
    "negative label": (
        "python",
        "test_batch",
        batch(np.zeros((2, 3072), "u1"), labels=np.array([-1, 1], "i1")),
        "'label' runs from -1 to 1",
    ),
    "float labels": (
        "python",
        "test_batch",
        batch(np.zeros((2, 3072), "u1"), labels=[1.0, 2.0]),
        "to be 2 integers",
    ),
    "nested labels": (
        "python",
        "test_batch",
        batch(np.zeros((2, 3072), "u1"), labels=NESTED),
        "to be 2 integers",
    ),
    "nested names": (
        "python",
        "batches.meta",
        lambda d: pickle.dumps({"label_names": NESTED}),
        "10 names of .*, got 0",
    ),
    "a text as names": (
        "python",
        "batches.meta",
        lambda d: pickle.dumps({"label_names": "x" * 10}),
        "10 names of .*, got 0",
    ),
    "names twice": (
        "binary",
        "batches.meta.txt",
        lambda d: b"cat\n" * 10,
        "expected different names of 'label'",
    ),
    "control characters": (
        "python",
        "batches.meta",
        lambda d: pickle.dumps({"label_names": [*NAMES10[:9], "a\nb"]}),
        "of printable characters",
    ),
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


def test_an_archive_that_unpacks_to_fill_the_memory_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MOST_BYTES", 2**21)
    files = cifar_files("cifar10", "binary") | {"data_batch_4.bin": bytes(2**23)}
    with pytest.raises(DataError, match=r"data_batch_4.bin: it unpacks to more than 2097152 bytes"):
        read_raw("cifar10", pack(tmp_path / "cifar-10-binary.tar.gz", "x", files))
