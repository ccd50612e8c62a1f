"""Prepares a folder or an archive of image files for streaming: the files themselves, as ArrayRecord files.

They lie where `folder.prepare` keeps the pixels of a set that fits into memory. Files are kept as they are, if `encoded`
decodes them to what `pictures` does, and else as PNG files of those pixels: photographs that are to be turned, for example,
and pictures with transparent parts or 16 bits. So streaming sees the same pixels as training in memory.
"""

import contextlib
import io
import itertools
import os
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from qresnet_jax.data.folder.layout import lay_out
from qresnet_jax.data.folder.prepare import (
    About,
    damaged,
    decode_all,
    prepared_once,
    read_about,
    settings_of,
    target_of,
)
from qresnet_jax.data.folder.source import Source, open_source
from qresnet_jax.data.pictures import PictureError
from qresnet_jax.data.pictures import decode as decode_picture
from qresnet_jax.data.streaming.batches import Images
from qresnet_jax.data.streaming.dataset import Opened
from qresnet_jax.data.streaming.encoded import decode
from qresnet_jax.data.streaming.records import Records, example_schema
from qresnet_jax.data.streaming.views import View
from qresnet_jax.errors import DataError

VERSION = 1  # of the prepared form; it is part of the digest
SHARD_BYTES = 2**28


class _Encoded(NamedTuple):
    data: bytes
    shape: tuple[int, int, int]  # (height, width, channels)


def prepare_encoded(
    raw_dir: str | os.PathLike[str], root: pathlib.Path, *, skip_broken: bool = False
) -> pathlib.Path:
    """Prepares a folder or an archive for streaming, or does nothing if that has been done. All files are decoded once.

    Args:
      raw_dir, root, skip_broken: see `prepare_folder`.

    Returns:
      The directory for `open_folder`.

    Raises:
      DataError: see `prepare_folder`.
    """

    def write(source: Source, directory: pathlib.Path) -> About:
        return _write(source, directory, skip_broken)

    return prepared_once(raw_dir, root, _settings(skip_broken), write)


def open_folder(directory: pathlib.Path, image_size: int, least_area: float) -> Opened:
    """Opens what `prepare_encoded` has prepared.

    Args:
      directory: what it has returned.
      image_size, least_area: see `View`.

    Raises:
      DataError: a file is missing or damaged, or the images have different sizes and `image_size` is 0.
    """
    about = read_about(directory)
    try:
        height, width, channels = about["shape"]
        if image_size:
            height = width = image_size
        elif not height:
            raise _uneven(about)
        view, shape = View(channels, image_size, least_area), (height, width, channels)
        schema, classes = example_schema(), len(about["class_names"])
        opened: dict[str, Images] = {}
        for part in about["splits"]:
            files = tuple((str(directory / name), count) for name, count in about["files"][part])
            records = Records(files, "image", "label", classes, schema)
            records.check()
            order = np.load(directory / f"{part}.npy")
            if len(order) != about["splits"][part]:
                raise ValueError(f"{len(order)} images of {part}, expected {about['splits'][part]}")
            opened[part] = Images(records, order, view, shape)
        names, stamp = tuple(about["class_names"]), about["checksum"]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise damaged(directory, error) from error
    return Opened(opened["train"], opened["test"], opened.get("validation"), names, stamp)


def count_and_shape(
    raw_dir: str | os.PathLike[str], root: pathlib.Path, *, image_size: int = 0, skip_broken: bool = False
) -> tuple[int, tuple[int | None, ...]]:
    """Returns the number of images of a folder or an archive, and the shape `(height, width, channels)` of one of them.

    The list of files in an archive is read only if the set is prepared in neither form.

    Args:
      raw_dir, root, image_size, skip_broken: see `prepare_folder`.

    Raises:
      DataError: the folder has another form.
    """
    source = open_source(raw_dir)
    for settings in (_settings(skip_broken), settings_of(image_size, skip_broken)):
        directory = target_of(source, root, settings)
        if directory.is_dir():
            about = read_about(directory)
            return sum(about["splits"].values()), tuple(about.get("shape") or _stored_shape(directory))
    count = sum(map(len, lay_out(source.listing, source.path).splits.values()))
    path = next(iter(source.listing.images))
    with contextlib.suppress(PictureError, OSError, StopIteration):  # preparation says which file is broken
        _, load = next(source.read({path}))
        picture, _ = decode_picture(io.BytesIO(load()))
        return count, (picture.height, picture.width, 3)
    return count, (None, None, None)


def _stored_shape(directory: pathlib.Path) -> tuple[int, ...]:
    try:
        return np.load(directory / "images.npy", mmap_mode="r").shape[1:]
    except (OSError, ValueError, EOFError) as error:
        raise damaged(directory, error) from error


def _settings(skip_broken: bool) -> str:
    return f"{VERSION}\0encoded\0{skip_broken}\0"


def _write(source: Source, directory: pathlib.Path, skip_broken: bool) -> About:
    # Here and not while threads decode: as long as TFDS is being imported, no other thread can import anything.
    import tensorflow_datasets.proto  # noqa: F401

    layout = lay_out(source.listing, source.path)
    parts = {part: _Part(directory, part, len(files)) for part, files in layout.splits.items()}
    place = [(part, i, label) for part, files in layout.splits.items() for i, (_, label) in enumerate(files)]
    seen: dict[tuple[int, int], str] = {}  # a path for each size
    channels = 1

    def put(i: int, path: str, image: _Encoded) -> None:
        nonlocal channels
        part, number, label = place[i]
        parts[part].write(number, image.data, label)
        seen.setdefault(image.shape[:2], path)
        channels = max(channels, image.shape[2])

    about = decode_all(source, layout, _encode, put, skip_broken)
    for written in parts.values():
        written.close()
    size = next(iter(seen)) if len(seen) == 1 else (0, 0)
    two = [(path, f"{w}x{h}") for (h, w), path in itertools.islice(seen.items(), 2)]
    return about | {
        "shape": [*size, channels],
        "sizes": two,
        "files": {part: written.files for part, written in parts.items()},
        "checksum": parts["train"].checksum(),
    }


def _encode(data: bytes) -> _Encoded:
    """Returns what is kept of a file."""
    picture, _ = decode_picture(io.BytesIO(data))
    pixels = np.asarray(picture, np.uint8).reshape(picture.height, picture.width, -1)
    with contextlib.suppress(Exception):  # of a format that only `pictures` reads
        if np.array_equal(decode(data), pixels):
            return _Encoded(data, pixels.shape)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return _Encoded(buffer.getvalue(), pixels.shape)


class _Part:
    """Writes the records of a split in the order in which they come, and keeps where they are."""

    def __init__(self, directory: pathlib.Path, name: str, count: int) -> None:
        self.files: list[list[Any]] = []  # name and number of records of each file
        self._directory, self._name = directory, name
        self._record = np.full(
            count, -1, np.int64
        )  # the number of the record of each image, -1 for those left out
        self._sums = np.zeros(count, np.uint32)  # a checksum of each image and its label
        self._writer: Any = None
        self._bytes = self._count = 0

    def write(self, i: int, data: bytes, label: int) -> None:
        from array_record.python.array_record_module import ArrayRecordWriter
        from tensorflow_datasets.proto import tf_example_pb2

        if self._writer is None or self._bytes > SHARD_BYTES:
            self._finish()
            self.files.append([f"{self._name}-{len(self.files):05d}.array_record", 0])
            path = self._directory / self.files[-1][0]
            with _as_os_errors():
                self._writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
            self._bytes = 0
        example = tf_example_pb2.Example()
        example.features.feature["image"].bytes_list.value.append(data)
        example.features.feature["label"].int64_list.value.append(label)
        with _as_os_errors():
            self._writer.write(example.SerializeToString())
        self._record[i], self._sums[i] = self._count, zlib.crc32(data, label)
        self._bytes += len(data)
        self._count += 1
        self.files[-1][1] += 1

    def _finish(self) -> None:
        if self._writer is not None:
            with _as_os_errors():
                self._writer.close()

    def close(self) -> None:
        self._finish()
        np.save(self._directory / f"{self._name}.npy", self._record[self._record >= 0])

    def checksum(self) -> str:
        return f"{zlib.crc32(self._sums[self._record >= 0].astype('<u4').tobytes()):08x}"


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # array_record raises exceptions of its own, as when the disk is full
        raise OSError(str(error)) from error


def _uneven(about: About) -> DataError:
    (one, first), (other, second) = about["sizes"]
    return DataError(
        f"{about['source']}: images have different sizes: {one} has {first}, {other} has {second} (width x height). "
        "Set config.data.image_size, as in --config.data.image_size=224, to give all of them one size."
    )
