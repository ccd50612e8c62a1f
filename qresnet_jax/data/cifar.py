"""Reads the files of a CIFAR archive, pickles or records of bytes, into NumPy arrays."""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from qresnet_jax.data.pickles import load_pickle
from qresnet_jax.data.published import PUBLISHED, RawSet, RawSplit, class_numbers
from qresnet_jax.errors import DataError

log = logging.getLogger("qresnet_jax")

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


def batch_names(name: str) -> list[str]:
    """Returns the names of the files of images, pickles and records, of "cifar10" or "cifar100"."""
    return [file + end for part in _BATCHES[name] for file in part for end in ("", ".bin")]


def file_names(name: str) -> set[str]:
    """Returns the names of all files that `decode` reads if they are there."""
    texts = [text_file for _, _, text_file in _LABELS[name].values()]
    return {*batch_names(name), _PICKLED_NAMES[name], *texts}


def decode(name: str, files: Mapping[str, bytes], source: str) -> RawSet:
    """Returns the content of an archive.

    Args:
      name: "cifar10" or "cifar100".
      files: the content of each file by its name.
      source: what messages call the archive.

    Raises:
      DataError: a file is missing, cut, damaged, or holds anything but images, labels and names of classes.
    """
    # An incomplete archive counts as the form that has more files in it, so that the message names what is missing.
    found = [file for file in batch_names(name) if file in files]
    binary = 2 * sum(file.endswith(".bin") for file in found) > len(found)
    end, read = (".bin", _read_binary_batch) if binary else ("", _read_pickled_batch)
    missing = [file + end for part in _BATCHES[name] for file in part if file + end not in files]
    if missing:
        raise DataError(
            f"{source}: {', '.join(missing)} missing: it is incomplete, or not an archive of {name}. Copy it again."
        )
    splits = []
    for part in _BATCHES[name]:
        batches = [read(name, files[file + end], f"{source}, {file}{end}") for file in part]
        labels = {key: np.concatenate([batch.labels[key] for batch in batches]) for key in _LABELS[name]}
        splits.append(RawSplit(np.concatenate([batch.images for batch in batches]), labels))
    return RawSet(splits[0], splits[1], _class_names(name, binary, files, source))


def _read_binary_batch(name: str, data: bytes, where: str) -> RawSplit:
    keys = list(_LABELS[name])
    record = len(keys) + 3072
    if not data or len(data) % record:
        raise DataError(
            f"{where}: {len(data)} bytes, expected a multiple of {record}: the file is cut or damaged; copy it again."
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, record)
    labels = {key: class_numbers(rows[:, i], name, key, where) for i, key in enumerate(keys)}
    return RawSplit(_planes_last(rows[:, len(keys) :]), labels)


def _read_pickled_batch(name: str, data: bytes, where: str) -> RawSplit:
    batch = load_pickle(data, where)
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        got = f"{pixels.dtype} {pixels.shape}" if isinstance(pixels, np.ndarray) else type(pixels).__name__
        raise DataError(f"{where}: expected 'data' to be uint8 [N, 3072], got {got}: copy the archive again.")
    labels = {}
    for key, (stored, _, _) in _LABELS[name].items():
        values = _array(batch.get(stored))
        if values is None or values.shape != (len(pixels),) or values.dtype.kind not in "iu":
            got = "something else" if values is None else f"{values.dtype} {values.shape}"
            raise DataError(
                f"{where}: expected '{stored}' to be {len(pixels)} integers, one for each image, got {got}: copy the "
                "archive again."
            )
        labels[key] = class_numbers(values, name, key, where)
    return RawSplit(_planes_last(pixels), labels)


def _array(values: Any) -> np.ndarray | None:
    """Returns labels as an array, and None if they are neither one nor a list of integers.

    It converts no other list: a few references to one list can unfold into an array of any size.
    """
    if isinstance(values, list | tuple) and all(isinstance(v, int | np.integer) for v in values):
        return np.array(values)  # of floats or objects if the integers do not fit into 64 bits
    return values if isinstance(values, np.ndarray) else None


def _planes_last(rows: np.ndarray) -> np.ndarray:
    """Returns uint8 [N, 32, 32, 3] from [N, 3072], whose rows hold the planes R, G and B of 32x32 pixels each."""
    return rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _class_names(name: str, binary: bool, files: Mapping[str, bytes], source: str) -> dict[str, list[str]]:
    names = {}
    for key, (_, stored, text_file) in _LABELS[name].items():
        file, count = text_file if binary else _PICKLED_NAMES[name], PUBLISHED[name].classes[key]
        if file not in files:
            log.warning("%s: %s is missing, so the classes of '%s' are numbered", source, file, key)
            continue
        if binary:
            names[key] = [line.strip() for line in files[file].decode("latin1").splitlines() if line.strip()]
        else:
            found = load_pickle(files[file], f"{source}, {file}").get(stored, [])
            texts = found if isinstance(found, list | tuple) else []
            names[key] = [
                text.decode("latin1") if isinstance(text, bytes) else text
                for text in texts
                if isinstance(text, str | bytes)
            ]
        if len(names[key]) != count:
            raise DataError(
                f"{source}, {file}: expected {count} names of '{key}', got {len(names[key])}: copy the archive again."
            )
        if len(set(names[key])) != count or not all(text.isprintable() for text in names[key]):
            raise DataError(
                f"{source}, {file}: expected different names of '{key}', of printable characters: copy the archive again."
            )
    return names
