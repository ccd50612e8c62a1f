"""Decodes a folder of images once, with all cores, and keeps the pixels as NumPy arrays in the data directory.

They lie in DATA_DIR/folder/NAME-DIGEST, where the digest is of the names, sizes and times of the files and of the fields
that change the pixels; so a folder that has changed is prepared again. NumPy's own format, because a set that is held in
memory is then read in one go, and no image is compressed and decompressed a second time.
"""

import collections
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import logging
import os
import pathlib
import secrets
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from qresnet_jax.data.dataset import Split
from qresnet_jax.data.folder.layout import PARTS, Layout, lay_out
from qresnet_jax.data.folder.source import Source, open_source
from qresnet_jax.data.pictures import PictureError, decode, fit
from qresnet_jax.errors import DataError
from qresnet_jax.system.files import make_directory
from qresnet_jax.system.machine import memory, processors

log = logging.getLogger("qresnet_jax")

VERSION = 1  # of the prepared form; it is part of the digest
CHUNK_FILES, CHUNK_BYTES = 64, 2**22  # that a thread decodes at once
LOG_SECONDS = 10.0  # between two lines about the progress

About = dict[str, Any]  # what about.json says
_T = TypeVar("_T")
_Chunk = list[tuple[str, Callable[[], bytes]]]


def prepare_folder(
    raw_dir: str | os.PathLike[str], root: pathlib.Path, *, image_size: int = 0, skip_broken: bool = False
) -> pathlib.Path:
    """Decodes the images of a folder or an archive, or does nothing if that has been done.

    Args:
      raw_dir: the folder, or a tar or zip archive of it; see `layout` for its form.
      root: the directory of all prepared sets; the images are kept below ROOT/folder.
      image_size: the height and width in pixels that images get: the largest square in the middle is cut out and resized
        with antialiasing (Lanczos). With 0 they keep their size, and all must have the same.
      skip_broken: whether files that cannot be decoded are left out; otherwise they are refused.

    Returns:
      The directory for `read_folder`.

    Raises:
      DataError: the folder has another form, a file cannot be decoded, images have different sizes, there is not enough
        memory for them, or `root` cannot be written. Nothing is left then, and nothing after an interruption.
    """

    def write(source: Source, directory: pathlib.Path) -> About:
        about, arrays = _prepare(source, image_size, skip_broken)
        for name, array in arrays.items():
            np.save(directory / f"{name}.npy", array)
        return about

    return prepared_once(raw_dir, root, settings_of(image_size, skip_broken), write)


def settings_of(image_size: int, skip_broken: bool) -> str:
    """Returns the text that says how the pixels of a set are prepared; see `prepared_once`."""
    return f"{VERSION}\0{image_size}\0{skip_broken}\0"


def prepared_once(
    raw_dir: str | os.PathLike[str],
    root: pathlib.Path,
    settings: str,
    write: Callable[[Source, pathlib.Path], About],
) -> pathlib.Path:
    """Prepares a folder or an archive, or does nothing if that has been done; logs what is to be said about it.

    Args:
      raw_dir, root: as for `prepare_folder`.
      settings: a text that says in which form the set is prepared.
      write: prepares a source into an empty directory, and returns the description that belongs to it.

    Returns:
      The directory, which gets its name when it is complete.

    Raises:
      DataError: see `prepare_folder`.
    """
    source = open_source(raw_dir)
    target = target_of(source, root, settings)
    if target.is_dir():
        about = read_about(target)
        log.info("the images of %s are already prepared in %s", raw_dir, target)
    else:
        try:
            make_directory(target.parent)
            if not os.access(target.parent, os.W_OK):
                raise PermissionError("it cannot be written")
            about = _write(source, target, write)
        except OSError as error:
            raise DataError(
                f"{raw_dir} could not be prepared in {target.parent}: {error}. Mend this, or choose another "
                "config.data.data_dir."
            ) from error
    for note in about["notes"]:
        log.info("%s: %s", raw_dir, note)
    return target


def read_folder(directory: pathlib.Path) -> tuple[dict[str, Split], tuple[str, ...]]:
    """Reads what `prepare_folder` has prepared.

    Returns:
      The splits "train", "test" and, if the folder has one, "validation"; and the class names.

    Raises:
      DataError: a file is missing or damaged.
    """
    about = read_about(directory)
    try:
        images, labels = (np.load(directory / f"{name}.npy") for name in ("images", "labels"))
        ends = np.cumsum(list(about["splits"].values()))
        if len(images) != len(labels) or len(labels) != ends[-1]:
            raise ValueError(f"{len(images)} images, {len(labels)} labels, expected {ends[-1]}")
    except (OSError, ValueError, EOFError) as error:
        raise damaged(directory, error) from error
    parts = zip(np.split(images, ends[:-1]), np.split(labels, ends[:-1]), strict=True)
    splits = {part: Split(*pair) for part, pair in zip(about["splits"], parts, strict=True)}
    return splits, tuple(about["class_names"])


def read_about(directory: pathlib.Path) -> About:
    """Reads the description of a prepared set.

    Raises:
      DataError: it is missing or damaged.
    """
    try:
        about = json.loads((directory / "about.json").read_text())
        for name in ("class_names", "splits", "notes"):
            about[name]
        return about
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(directory, error) from error


def damaged(directory: pathlib.Path, error: Exception) -> DataError:
    """Returns the error to raise where a prepared set cannot be read."""
    return DataError(f"{directory} is damaged ({error}): delete it, and the folder is prepared again.")


def target_of(source: Source, root: pathlib.Path, settings: str) -> pathlib.Path:
    """Returns the directory in which a source is prepared; see `prepared_once`."""
    digest = hashlib.sha256((settings + source.stamp()).encode(errors="surrogateescape")).hexdigest()[:16]
    name = source.path.resolve().name.partition(".")[0] or "images"
    return root / "folder" / f"{name}-{digest}"


def _write(source: Source, target: pathlib.Path, write: Callable[[Source, pathlib.Path], About]) -> About:
    """Writes the prepared form into a new directory, which gets its name when it is complete."""
    temporary = target.with_name(f".{target.name}-{os.getpid()}-{secrets.token_hex(4)}")
    try:
        temporary.mkdir()
        about = write(source, temporary)
        (temporary / "about.json").write_text(json.dumps(about, indent=2) + "\n")
        try:
            temporary.rename(target)
        except OSError:
            if not target.is_dir():  # another run has been faster
                raise
        return about
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _prepare(source: Source, image_size: int, skip_broken: bool) -> tuple[About, dict[str, np.ndarray]]:
    """Returns the description of a set, and its arrays by their names."""
    layout = lay_out(source.listing, source.path)
    pixels = Pixels(source.path, sum(map(len, layout.splits.values())))

    def put(i: int, path: str, image: tuple[np.ndarray, bool]) -> None:
        pixels.put(i, path, *image)

    about = decode_all(source, layout, functools.partial(_decode, image_size=image_size), put, skip_broken)
    if image_size and pixels.fitted:
        about["notes"].append(
            f"images whose middle square is resized to {image_size}x{image_size}: {pixels.fitted}"
        )
    labels = np.array([label for part in layout.splits.values() for _, label in part], np.int32)
    images = pixels.images if pixels.filled.all() else pixels.images[pixels.filled]
    return about, {"images": images, "labels": labels[pixels.filled]}


class Pixels:
    """The pixels of a set, which come image by image; all have one size, and 1 channel unless one of them has colours."""

    def __init__(self, where: object, total: int) -> None:
        self.where, self.first, self.fitted = where, "", 0
        self.images = np.empty((0, 0, 0, 1), np.uint8)
        self.filled = np.zeros(total, bool)

    def put(self, i: int, path: str, pixels: np.ndarray, was_fitted: bool) -> None:
        """Stores one image, uint8 `[H, W]` or `[H, W, 3]`.

        Raises:
          DataError: it has another size than the first one, or the set does not fit into memory.
        """
        if not self.first:
            self.first = path
            self.images = self._empty((*pixels.shape[:2], 1))
        if pixels.shape[:2] != self.images.shape[1:3]:
            one, other = (f"{w}x{h}" for h, w in (self.images.shape[1:3], pixels.shape[:2]))
            raise DataError(
                f"{self.where}: images have different sizes: {self.first} has {one}, {path} has {other} (width x height). "
                "Set config.data.image_size, as in --config.data.image_size=64, to give all of them one size."
            )
        if pixels.ndim == 3 and self.images.shape[-1] == 1:
            grey, self.images = self.images, self._empty((*pixels.shape[:2], 3))
            self.images[self.filled] = grey[self.filled]
        self.images[i] = pixels if pixels.ndim == 3 else pixels[..., None]
        self.filled[i], self.fitted = True, self.fitted + was_fitted

    def _empty(self, shape: tuple[int, int, int]) -> np.ndarray:
        size = len(self.filled) * int(np.prod(shape))
        if size > memory():
            raise DataError(
                f"{self.where}: {len(self.filled)} images of {'x'.join(map(str, shape))} take {size / 1e9:.1f} GB, more than "
                "the memory of this machine: set a smaller config.data.image_size, or config.data.streaming=True."
            )
        return np.empty((len(self.filled), *shape), np.uint8)


def decode_all(
    source: Source,
    layout: Layout,
    work: Callable[[bytes], _T],
    put: Callable[[int, str, _T], None],
    skip_broken: bool,
) -> About:
    """Decodes all files of a source, and says what they are.

    Threads do it, as Pillow lets others run while it decodes. Processes were no faster for images of 32x32 pixels and slower
    for larger ones, whose pixels they have to hand over. Few files are read ahead.

    Args:
      source, layout: the files.
      work: is called in a thread with the content of each file; raises a PictureError if it cannot be decoded.
      put: is called with the place of each file in the splits, one after the other, its path and what `work` returned.
      skip_broken: whether files that cannot be decoded are left out.

    Returns:
      The description of the set, for about.json.

    Raises:
      DataError: a file cannot be decoded, or a split or a class of train is left without images.
    """
    files = [file for part in layout.splits.values() for file in part]
    log.info("decoding %d images of %d classes in %s", len(files), len(layout.class_names), source.path)
    position = {path: i for i, (path, _) in enumerate(files)}
    broken, workers = [], processors()
    filled = np.zeros(len(files), bool)
    pool = concurrent.futures.ThreadPoolExecutor(workers)
    pending: collections.deque[concurrent.futures.Future] = collections.deque()

    def take() -> int:
        done = pending.popleft().result()
        for path, result in done:
            if not isinstance(result, PictureError):
                put(position[path], path, result)
                filled[position[path]] = True
            elif skip_broken:
                broken.append(path)
            else:
                raise DataError(
                    f"{source.path}: {path} {result}. Or leave out such files with --config.data.skip_broken=True."
                ) from result
        return len(done)

    try:
        with warnings.catch_warnings(action="ignore"), _progress(len(position)) as advance:
            for chunk in _chunks(source, position):
                pending.append(pool.submit(_work_on, chunk, work))
                if len(pending) > 2 * workers:
                    advance(take())
            while pending:
                advance(take())
    finally:
        pool.shutdown(cancel_futures=True)
    notes = list(layout.notes)
    if broken:
        notes.append(f"files that cannot be decoded and are skipped: {len(broken)}, such as {min(broken)}")
    labels = np.array([label for _, label in files], np.int32)
    _check_what_is_left(source, layout, labels, filled)
    ends = np.cumsum([len(part) for part in layout.splits.values()])
    left = [int(np.count_nonzero(x)) for x in np.split(filled, ends[:-1])]
    return {
        "class_names": layout.class_names,
        "splits": dict(zip(layout.splits, left, strict=True)),
        "notes": notes,
        "source": str(source.path.absolute()),
    }


def _chunks(source: Source, wanted: dict[str, int]) -> Iterator[_Chunk]:
    """Yields the files of a source in groups: one task for each small file would take longer than decoding it."""
    chunk: _Chunk = []
    size = 0
    for path, load in source.read(wanted):
        chunk.append((path, load))
        size += source.listing.images[path]
        if len(chunk) == CHUNK_FILES or size >= CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _work_on(chunk: _Chunk, work: Callable[[bytes], _T]) -> list[tuple[str, _T | PictureError]]:
    """Returns what comes of each file, or why nothing does."""
    done: list[tuple[str, _T | PictureError]] = []
    for path, load in chunk:
        try:
            done.append((path, work(load())))
        except PictureError as error:
            done.append((path, error))
        except OSError as error:  # of reading the file
            done.append((path, PictureError(f"cannot be read ({error.strerror or error}): correct this")))
    return done


def _decode(data: bytes, image_size: int) -> tuple[np.ndarray, bool]:
    """Returns the pixels of a file, and whether it was cut or resized."""
    picture, _ = decode(io.BytesIO(data))
    size = picture.size
    if image_size:
        picture, _ = fit(picture, image_size, image_size)
    return np.asarray(picture, np.uint8), picture.size != size


def _check_what_is_left(source: Source, layout: Layout, labels: np.ndarray, filled: np.ndarray) -> None:
    """Refuses a set in which skipped files leave a split, or a class of train, without images."""
    start = 0
    for part in layout.splits:
        stop = start + len(layout.splits[part])
        left = set(labels[start:stop][filled[start:stop]].tolist())
        lost = [name for i, name in enumerate(layout.class_names) if i not in left]
        if not left or (part == PARTS[0] and lost):
            what = f"of class {lost[0]!r} in {part}" if left else f"in {part}"
            raise DataError(
                f"{source.path}: no image {what} can be decoded: give a PNG, a JPEG, or another format that Pillow reads."
            )
        start = stop


@contextlib.contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Shows how many of `total` images are done, in a bar on a terminal or else in a line now and then."""
    done, said = 0, time.monotonic()
    with contextlib.ExitStack() as closing:
        bar = None
        if sys.stdout.isatty():
            from rich import get_console, progress

            bar = closing.enter_context(progress.Progress(console=get_console(), transient=True))
            task = bar.add_task("decoding", total=total)

        def advance(count: int) -> None:
            nonlocal done, said
            done += count
            if bar:
                bar.update(task, completed=done)
            elif time.monotonic() - said > LOG_SECONDS:
                said = time.monotonic()
                log.info("decoded %d of %d images", done, total)

        yield advance
