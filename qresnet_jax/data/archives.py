"""Reads the archives in which CIFAR, MNIST and Fashion-MNIST are published into NumPy arrays.

    MNIST, Fashion-MNIST    four IDX files, plain or gzipped (LeCun et al. 1998): train-images-idx3-ubyte,
                            train-labels-idx1-ubyte, t10k-...; also spelt train-images.idx3-ubyte
    CIFAR-10, CIFAR-100     cifar-10-python.tar.gz (pickles) or cifar-10-binary.tar.gz (records of 1 or 2
                            label bytes and 3072 pixels: planes R, G, B), packed or unpacked (Krizhevsky 2009)

`read_raw(name, raw_dir)` finds them in `raw_dir` or in a directory directly below it; `raw_dir` may also be the
archive itself. Nothing in an archive is ever executed (see `pickles`).
"""

import gzip
import io
import logging
import math
import os
import pathlib
import re
import tarfile
import zlib
from typing import IO

import numpy as np

from qresnet_jax.data import cifar
from qresnet_jax.data.published import PUBLISHED, RawSet, RawSplit, class_numbers
from qresnet_jax.errors import DataError
from qresnet_jax.system.files import as_path

log = logging.getLogger("qresnet_jax")

MOST_BYTES = 2**30  # of an unpacked file; the largest of the published ones has 160 MB


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
    root, expected = as_path(raw_dir), PUBLISHED[name]
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
        for labels in split.labels.values():
            if len(labels) != n:
                raise DataError(
                    f"{root}: {n} {part} images, but {len(labels)} labels: these files belong to different sets. "
                    "Copy the archive again."
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


def read_all(stream: IO[bytes] | gzip.GzipFile, where: object, most: int) -> bytes:
    """Returns the rest of a stream, unless it has more than `most` bytes, as if it was packed to fill the memory.

    Raises:
      DataError: it has more; the message begins with `where`.
    """
    blocks, room = [], most
    while block := stream.read(1 << 20):
        blocks.append(block)
        room -= len(block)
        if room < 0:
            raise DataError(
                f"{where}: it unpacks to more than {most} bytes, but no file of this kind is so large: get the archive "
                "from its publisher."
            )
    return b"".join(blocks)


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
    data = as_path(path).read_bytes()
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.open(io.BytesIO(data)) as stream:
                data = read_all(stream, path, MOST_BYTES)
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
    try:
        return np.frombuffer(data, np.uint8, offset=start).reshape(shape)
    except ValueError as error:  # more axes than NumPy has, or 0 times a number beyond its range
        raise DataError(f"{path}: its header says {shape} ({error}): copy the file again.") from error


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
    arrays, paths = {}, {}
    for stem, axes in (("train-images", 3), ("train-labels", 1), ("t10k-images", 3), ("t10k-labels", 1)):
        path = find(places[0], stem, axes)
        if path is None:
            raise DataError(
                f"{places[0]}: {stem}-idx{axes}-ubyte(.gz) is missing beside its companions: copy it there."
            )
        arrays[stem], paths[stem] = read_idx(path), path
        if arrays[stem].ndim != axes:
            raise DataError(
                f"{path}: expected {axes} axes, got {arrays[stem].ndim}: the file has a wrong name; copy it again."
            )

    def split(part: str) -> RawSplit:
        labels = f"{part}-labels"
        return RawSplit(
            arrays[f"{part}-images"][..., None],
            {"label": class_numbers(arrays[labels], name, "label", str(paths[labels]))},
        )

    return RawSet(split("train"), split("t10k"), class_names={})


# ---- CIFAR -------------------------------------------------------------------------------------------------


def _read_cifar(name: str, root: pathlib.Path) -> RawSet:
    source = root if root.is_file() else _find_cifar(name, root)
    return cifar.decode(name, _members(source, cifar.file_names(name)), str(source))


def _find_cifar(name: str, root: pathlib.Path) -> pathlib.Path:
    batches = cifar.batch_names(name)
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
                    members[file] = read_all(content, f"{source}, {file}", MOST_BYTES)
    except DataError:
        raise
    except Exception as error:  # tarfile and the decompressors raise exceptions of many types
        raise DataError(
            f"{source}: expected a tar.gz archive, but it is cut or damaged ({error}): copy it again."
        ) from error
    return members
