"""Reads the archives in which CIFAR, MNIST and Fashion-MNIST are published into NumPy arrays.

    MNIST, Fashion-MNIST    four IDX files, plain or gzipped (LeCun et al. 1998): train-images-idx3-ubyte,
                            train-labels-idx1-ubyte, t10k-...; also spelt train-images.idx3-ubyte
    CIFAR-10, CIFAR-100     cifar-10-python.tar.gz (pickles) or cifar-10-binary.tar.gz (records of 1 or 2
                            label bytes and 3072 pixels: planes R, G, B), packed or unpacked (Krizhevsky 2009)

`read_raw(name, raw_dir)` finds them in `raw_dir` or in a directory directly below it; `raw_dir` may also be the
archive itself. Nothing in an archive is ever executed: the unpickler knows NumPy arrays and nothing else.
"""

import gzip
import io
import logging
import lzma
import math
import os
import pathlib
import pickle
import re
import tarfile
import zlib
from typing import Any, NamedTuple

import numpy as np

from qresnet_jax.errors import DataError

log = logging.getLogger("qresnet_jax")


class RawSplit(NamedTuple):
    """The images and labels of one split of an archive."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: dict[str, np.ndarray]  # int64 [N] each: "label", in CIFAR-100 also "coarse_label"


class RawSet(NamedTuple):
    """The content of an archive."""

    train: RawSplit
    test: RawSplit
    class_names: dict[str, list[str]]  # by label key, for those labels whose classes the archive names


class Published(NamedTuple):
    """What the published original of a set holds, and where it can be found."""

    shape: tuple[int, int, int]  # (height, width, channels)
    classes: dict[str, int]  # label key -> number of classes, in the order of CIFAR's label bytes
    train: int  # number of images
    test: int  # number of images
    files: str  # names of the files, for messages
    home: str  # address of the set's page, for messages


_IDX = "train-images-idx3-ubyte(.gz) and its three companions"
_CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_FASHION_HOME = "https://github.com/zalandoresearch/fashion-mnist"
_C10, _C100 = (f"cifar-{n}-python.tar.gz or cifar-{n}-binary.tar.gz" for n in (10, 100))
PUBLISHED = {
    "cifar10": Published((32, 32, 3), {"label": 10}, 50_000, 10_000, _C10, _CIFAR_HOME),
    "cifar100": Published(
        (32, 32, 3), {"coarse_label": 20, "label": 100}, 50_000, 10_000, _C100, _CIFAR_HOME
    ),
    "mnist": Published((28, 28, 1), {"label": 10}, 60_000, 10_000, _IDX, "http://yann.lecun.com/exdb/mnist/"),
    "fashion_mnist": Published((28, 28, 1), {"label": 10}, 60_000, 10_000, _IDX, _FASHION_HOME),
}


def read_raw(name: str, raw_dir: str | os.PathLike[str]) -> RawSet:
    """Reads the published archive of a standard set.

    Args:
      name: a key of PUBLISHED.
      raw_dir: the directory that holds the archive, packed or unpacked, or the directory above it, or the archive.

    Returns:
      The images, labels and class names, in the archive's own order.

    Raises:
      DataError: nothing is found, or a file is truncated, has an unexpected format, or contradicts its companions.
    """
    root, expected = pathlib.Path(raw_dir).expanduser(), PUBLISHED[name]
    if not root.exists():
        raise DataError(
            f"config.data.raw_dir={str(raw_dir)!r} does not exist: give the directory that holds {name}."
        )
    raw = _read_cifar(name, root) if name.startswith("cifar") else _read_idx_set(name, root)
    for part, split, count in (("train", raw.train, expected.train), ("test", raw.test, expected.test)):
        n, shape = len(split.images), split.images.shape[1:]
        if shape != expected.shape or not n:
            raise DataError(
                f"{root}: {n} {part} images of shape {shape}, but those of {name} are {expected.shape}: "
                "give the directory of this set as config.data.raw_dir."
            )
        for key, labels in split.labels.items():
            if len(labels) != n:
                raise DataError(
                    f"{root}: {n} {part} images, but {len(labels)} labels: these files belong to different sets. "
                    "Copy the archive again."
                )
            if not 0 <= labels.min() <= labels.max() < expected.classes[key]:
                raise DataError(
                    f"{root}: {part} '{key}' runs from {labels.min()} to {labels.max()}, but {name} has "
                    f"{expected.classes[key]} classes: copy the archive again."
                )
        # This is no error: a small file in the right format is a good thing to try a program on.
        if n != count:
            log.warning("%s: found %d %s images, but the original has %d", root, n, part, count)
    return raw


def _places(name: str, root: pathlib.Path) -> list[pathlib.Path]:
    """Returns `root` and the directories in it, but for those that are named after another set.

    MNIST and its successors use the same file names, so only the directory tells them apart.
    """
    root = root.parent if root.is_file() else root
    others = {"mnist", "fashionmnist", "kmnist", "emnist"} - {_letters(name)}
    return [p for p in (root, *sorted(root.iterdir())) if p.is_dir() and _letters(p.name) not in others]


def _letters(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _not_found(name: str, root: pathlib.Path) -> DataError:
    return DataError(
        f"{name}: found neither {PUBLISHED[name].files} nor the unpacked files in config.data.raw_dir={str(root)!r} "
        f"or directly below it (directories that are named after another set do not count). Get them from "
        f"{PUBLISHED[name].home}."
    )


# ---- IDX ---------------------------------------------------------------------------------------------------


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """Reads an IDX file of bytes: 0, 0, 8, number of axes, each axis as big-endian uint32, the values.

    Args:
      path: the file. Its first bytes, not its name, tell whether it is gzipped.

    Returns:
      The values, uint8, in the shape that the header gives.

    Raises:
      DataError: the file is no IDX file of bytes, or it is shorter or longer than its header says.
    """
    data = pathlib.Path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(
                f"{path}: the gzip stream is cut or damaged ({error}): copy the file again."
            ) from error
    if data[:3] != b"\0\0\x08" or len(data) < 4 or len(data) < 4 + 4 * data[3]:
        raise DataError(
            f"{path}: expected an IDX file of bytes, which starts 00 00 08, not {data[:4].hex(' ')!r}: "
            "copy the file again."
        )
    start = 4 + 4 * data[3]
    shape = tuple(np.frombuffer(data, ">u4", data[3], 4).tolist())
    if len(data) - start != math.prod(shape):
        raise DataError(
            f"{path}: its header says {shape}, {math.prod(shape)} bytes, but {len(data) - start} follow: "
            "the file is cut or damaged; copy it again."
        )
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def _read_idx_set(name: str, root: pathlib.Path) -> RawSet:
    def find(place: pathlib.Path, stem: str, axes: int) -> pathlib.Path | None:
        files = (place / f"{stem}{dot}idx{axes}-ubyte{end}" for dot in "-." for end in ("", ".gz"))
        return next((file for file in files if file.is_file()), None)

    places = [place for place in _places(name, root) if find(place, "train-images", 3)]
    if not places:
        raise _not_found(name, root)
    if len(places) > 1 and places[0] != root:
        places = [place for place in places if _letters(place.name) == _letters(name)] or places
        if len(places) > 1:
            found = ", ".join(str(place) for place in places)
            raise DataError(
                f"{name}: files of this set lie in {found}: give the right one as config.data.raw_dir."
            )
    arrays = {}
    for stem, axes in (("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1)):
        path = find(places[0], stem, axes)
        if path is None:
            raise DataError(
                f"{places[0]}: {stem}-idx{axes}-ubyte(.gz) is missing beside its companions: copy it there."
            )
        arrays[stem] = read_idx(path)
        if arrays[stem].ndim != axes:
            raise DataError(
                f"{path}: expected {axes} axes, got {arrays[stem].ndim}: the file has a wrong name; copy it again."
            )
    train, test = (
        RawSplit(arrays[f"{s}-images"][..., None], {"label": arrays[f"{s}-labels"].astype(np.int64)})
        for s in ("train", "t10k")
    )
    return RawSet(train, test, class_names={})


# ---- CIFAR -------------------------------------------------------------------------------------------------

# The pickles' file names, for train and test; the binary files have the same names with .bin appended.
_BATCHES = {
    "cifar10": ([f"data_batch_{i}" for i in range(1, 6)], ["test_batch"]),
    "cifar100": (["train"], ["test"]),
}
# Our label keys, in the order of the label bytes. Each maps to its key in the batches, its key in the pickled class
# names, and the text file of class names that comes with the binary files.
_LABELS = {
    "cifar10": {"label": ("labels", "label_names", "batches.meta.txt")},
    "cifar100": {
        "coarse_label": ("coarse_labels", "coarse_label_names", "coarse_label_names.txt"),
        "label": ("fine_labels", "fine_label_names", "fine_label_names.txt"),
    },
}
_PICKLED_NAMES = {"cifar10": "batches.meta", "cifar100": "meta"}


def _read_cifar(name: str, root: pathlib.Path) -> RawSet:
    parts = _BATCHES[name]
    batches = [file + end for part in parts for file in part for end in ("", ".bin")]
    source = root if root.is_file() else _find_cifar(name, root, batches)
    members = _members(
        source, {*batches, _PICKLED_NAMES[name], *(files[2] for files in _LABELS[name].values())}
    )
    # An incomplete archive counts as the form that has more files in it, so that the message names what is missing.
    found = [file for file in batches if file in members]
    binary = 2 * sum(file.endswith(".bin") for file in found) > len(found)
    end, read = (".bin", _read_binary_batch) if binary else ("", _read_pickled_batch)
    missing = [file + end for part in parts for file in part if file + end not in members]
    if missing:
        raise DataError(
            f"{source}: {', '.join(missing)} missing: it is incomplete, or not an archive of {name}. Copy it again."
        )
    splits = []
    for part in parts:
        read_batches = [read(name, members[file + end], f"{source}, {file}{end}") for file in part]
        labels = {key: np.concatenate([b.labels[key] for b in read_batches]) for key in _LABELS[name]}
        splits.append(RawSplit(np.concatenate([b.images for b in read_batches]), labels))
    return RawSet(splits[0], splits[1], _class_names(name, binary, members, source))


def _find_cifar(name: str, root: pathlib.Path, batches: list[str]) -> pathlib.Path:
    places, stem = _places(name, root), name.replace("cifar", "cifar-")
    unpacked = (place for place in places if any((place / file).is_file() for file in batches))
    packed = (
        file
        for place in places
        for file in sorted(place.iterdir())
        if file.is_file() and re.fullmatch(rf"{stem}-(python|binary)\.(tar\.gz|tgz|tar)", file.name)
    )
    for found in (*unpacked, *packed):
        return found
    raise _not_found(name, root)


def _members(source: pathlib.Path, wanted: set[str]) -> dict[str, bytes]:
    """Reads the wanted files of a directory or a tar archive; returns their bytes by the last part of their names."""
    if source.is_dir():
        return {file: (source / file).read_bytes() for file in sorted(wanted) if (source / file).is_file()}
    members = {}
    try:
        with tarfile.open(source, "r:*") as tar:
            for member in tar:
                file = pathlib.PurePosixPath(member.name).name
                if file in wanted and member.isreg() and (content := tar.extractfile(member)):
                    members[file] = content.read()
    except (tarfile.TarError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{source}: expected a tar.gz archive, but it is cut or damaged ({error}): copy it again."
        ) from error
    return members


def _read_binary_batch(name: str, data: bytes, where: str) -> RawSplit:
    keys = list(_LABELS[name])
    record = len(keys) + 3072
    if not data or len(data) % record:
        raise DataError(
            f"{where}: {len(data)} bytes, expected a multiple of {record}: the file is cut or damaged; copy it again."
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    return RawSplit(
        _planes_last(rows[:, len(keys) :]), {k: rows[:, i].astype(np.int64) for i, k in enumerate(keys)}
    )


def _read_pickled_batch(name: str, data: bytes, where: str) -> RawSplit:
    batch = load_pickle(data, where)
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        got = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{where}: expected 'data' to be uint8 [N, 3072], got {got}: copy the archive again.")
    labels = {}
    for key, (stored, _, _) in _LABELS[name].items():
        values = np.asarray(batch.get(stored))
        if values.shape != (len(pixels),) or values.dtype.kind not in "iu":
            raise DataError(
                f"{where}: expected '{stored}' to be {len(pixels)} integers, one for each image, got "
                f"{values.dtype} {values.shape}: copy the archive again."
            )
        labels[key] = values.astype(np.int64)
    return RawSplit(_planes_last(pixels), labels)


def _planes_last(rows: np.ndarray) -> np.ndarray:
    """Returns uint8 [N, 32, 32, 3] from [N, 3072], whose rows hold the planes R, G and B of 32x32 pixels each."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _class_names(
    name: str, binary: bool, members: dict[str, bytes], source: pathlib.Path
) -> dict[str, list[str]]:
    names = {}
    for key, (_, stored, text_file) in _LABELS[name].items():
        file, count = text_file if binary else _PICKLED_NAMES[name], PUBLISHED[name].classes[key]
        if file not in members:
            log.warning("%s: %s is missing, so the classes of '%s' are numbered", source, file, key)
            continue
        if binary:
            names[key] = [
                line.strip() for line in members[file].decode("latin1").splitlines() if line.strip()
            ]
        else:
            found = load_pickle(members[file], f"{source}, {file}").get(stored, [])
            names[key] = [n.decode("latin1") if isinstance(n, bytes) else str(n) for n in found]
        if len(names[key]) != count:
            raise DataError(
                f"{source}, {file}: expected {count} names of '{key}', got {len(names[key])}: copy the archive again."
            )
    return names


# ---- Pickles that cannot act -------------------------------------------------------------------------------


def load_pickle(data: bytes, where: str) -> dict[str, Any]:
    """Loads a dictionary of plain values and NumPy arrays from a pickle, of Python 2 or 3, without running its code.

    Args:
      data: the pickle.
      where: what messages call it.

    Returns:
      The dictionary, with str keys.

    Raises:
      DataError: the pickle is truncated, is no dictionary, or asks for anything but arrays of numbers.
    """
    try:
        loaded = _ArrayUnpickler(io.BytesIO(data), encoding="latin1").load()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any opcode, with any exception
        raise DataError(f"{where}: not a complete pickle ({error}): copy the archive again.") from error
    if not isinstance(loaded, dict):
        raise DataError(
            f"{where}: expected a pickled dictionary, got {type(loaded).__name__}: copy the archive again."
        )
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in loaded.items()}


def _number_dtype(spec: str, align: bool = False, copy: bool = True) -> np.dtype:
    if not re.fullmatch(r"[<>|=]?[biuf]\d{1,2}", spec):
        raise DataError(f"refused an array of type {spec!r}: CIFAR archives hold only numbers.")
    # Always a copy, because the pickle then sets the state of the object that it gets.
    return np.dtype(spec, align=False, copy=True)


def _latin1_bytes(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise DataError(f"refused the encoding {encoding!r}: CIFAR archives hold only numbers.")
    return text.encode("latin1")


_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _number_dtype,
    ("numpy.core.multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],
    ("numpy.core.multiarray", "scalar"): np.int64(0).__reduce__()[0],
    ("numpy.core.numeric", "_frombuffer"): np.zeros(0).__reduce_ex__(5)[0],
    ("_codecs", "encode"): _latin1_bytes,  # how Python 3 writes bytes for Python 2
}


class _ArrayUnpickler(pickle.Unpickler):
    """Knows the functions that rebuild an array of numbers; refuses every other name without importing it."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy._core", "numpy.core")  # renamed in NumPy 2
        if (module, name) not in _ALLOWED:
            raise DataError(
                f"refused to load {module}.{name}: CIFAR archives hold only arrays, but this file would run code. "
                "Get the archive from its publisher."
            )
        return _ALLOWED[module, name]
