"""Lists and reads the image files of a directory or an archive. Nothing of an archive is ever written to the disk."""

import abc
import functools
import os
import pathlib
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator
from typing import NamedTuple, TypeVar

from qresnet_jax.data.archives import read_all
from qresnet_jax.data.pictures import is_image
from qresnet_jax.errors import DataError
from qresnet_jax.system.files import as_path

_Item = TypeVar("_Item")

MOST_BYTES = 2**28  # of an image file in an archive


class Listing(NamedTuple):
    """What a source holds. Paths are relative, with "/" between their parts; what is hidden is left out."""

    images: dict[str, int]  # the size of each image file in bytes, by its path, sorted by path
    folders: list[str]  # all folders, empty ones too
    others: int  # the number of files that are no images, by the endings of their names, and of links in an archive


class Source(abc.ABC):
    """A directory or an archive of image files."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    @property
    @abc.abstractmethod
    def listing(self) -> Listing:
        """What it holds."""

    @abc.abstractmethod
    def stamp(self) -> str:
        """Returns a text that changes when files are added, removed or written."""

    @abc.abstractmethod
    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Yields the paths of the wanted image files, in any order, each with a function that returns its content.

        The functions may be called in other threads.
        """


def open_source(raw_dir: str | os.PathLike[str]) -> Source:
    """Returns the directory, or the tar or zip archive, at a path.

    Raises:
      DataError: no path is given, or there is nothing at it, or it is no archive.
    """
    if not raw_dir:
        raise DataError(
            "config.data.raw_dir is empty: give the folder of images, or an archive of it (tar, tar.gz, tar.xz or zip)."
        )
    path = as_path(raw_dir)
    try:
        if path.is_dir():
            return Directory(path)
        if not path.exists():
            raise DataError(
                f"config.data.raw_dir={str(raw_dir)!r} does not exist: give the folder of images, or an archive of it."
            )
        if zipfile.is_zipfile(path):
            return Zip(path)
        if tarfile.is_tarfile(path):
            return Tar(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): correct this.") from error
    raise DataError(
        f"{path} is neither a directory nor a whole tar, tar.gz, tar.xz or zip archive: give a folder of images, or copy "
        "the archive again."
    )


class Directory(Source):
    """A directory on the disk. Links in it are followed."""

    @functools.cached_property
    def _found(self) -> tuple[Listing, list[str]]:
        images: dict[str, int] = {}
        folders: list[str] = []
        stamps: list[str] = []
        others = 0

        def visit(directory: pathlib.Path, prefix: str, above: frozenset[tuple[int, int]]) -> None:
            nonlocal others
            status = directory.stat()
            if (here := (status.st_dev, status.st_ino)) in above:  # a link to a directory that it lies in
                return
            for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
                path = prefix + entry.name
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(path)
                    visit(directory / entry.name, f"{path}/", above | {here})
                elif is_image(entry.name):
                    status = entry.stat()  # of a link that leads nowhere, this is refused
                    if stat.S_ISREG(status.st_mode):
                        images[path] = status.st_size
                        stamps.append(f"{path}\0{status.st_size}\0{status.st_mtime_ns}")
                else:
                    others += 1

        try:
            visit(self.path, "", frozenset())
        except OSError as error:
            raise DataError(
                f"{error.filename or self.path} cannot be read ({error.strerror or error}): correct this, or remove it from "
                "the folder of images."
            ) from error
        return Listing(dict(sorted(images.items())), folders, others), stamps

    @property
    def listing(self) -> Listing:
        """What the directory and those in it hold."""
        return self._found[0]

    def stamp(self) -> str:
        """Returns the paths, sizes and times of all image files."""
        return "\n".join([*self._found[1], *self._found[0].folders])

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Yields the paths of the wanted files with functions that read them."""
        for path in self.listing.images:
            if path in wanted:
                yield path, (self.path / path).read_bytes


class _Archive(Source):
    """A file that holds files: it is read from its beginning to its end, once for the listing and once for the images."""

    @functools.cached_property
    def _listing(self) -> Listing:
        images: dict[str, int] = {}
        folders: list[str] = []
        others = 0
        for path, size in self._whole(self._list()):
            if any(part.startswith(".") for part in path.split("/")):
                continue
            if size is None:
                folders.append(path)
            elif size >= 0 and is_image(path):
                images[path] = size
            else:
                others += 1
        return Listing(dict(sorted(images.items())), sorted(folders), others)

    @property
    def listing(self) -> Listing:
        """What the archive holds."""
        return self._listing

    def stamp(self) -> str:
        """Returns the name, size and time of the archive."""
        status = self.path.stat()
        return f"{self.path.name}\0{status.st_size}\0{status.st_mtime_ns}"

    def read(self, wanted: Collection[str]) -> Iterator[tuple[str, Callable[[], bytes]]]:
        """Yields the paths of the wanted files with functions that return what has been read."""
        for path, content in self._whole(self._contents(wanted)):
            yield path, functools.partial(bytes, content)

    def _whole(self, items: Iterator[_Item]) -> Iterator[_Item]:
        """Yields the items of a walk through the archive; raises a DataError where it is cut or damaged."""
        try:
            yield from items
        except DataError:
            raise
        except Exception as error:  # tarfile, zipfile and the decompressors raise exceptions of many types
            raise DataError(
                f"{self.path}: the archive is cut or damaged, or needs a password ({error}): copy it again."
            ) from error

    @abc.abstractmethod
    def _list(self) -> Iterator[tuple[str, int | None]]:
        """Yields the path and the size of each member; the size is None for a folder and -1 for a link."""

    @abc.abstractmethod
    def _contents(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        """Yields the paths and the contents of the wanted members."""


class Tar(_Archive):
    """A tar archive, compressed or not."""

    def _list(self) -> Iterator[tuple[str, int | None]]:
        with tarfile.open(self.path, "r:*") as tar:
            for member in tar:
                yield _clean(member.name), None if member.isdir() else member.size if member.isreg() else -1

    def _contents(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with tarfile.open(self.path, "r:*") as tar:
            for member in tar:
                path = _clean(member.name)
                if path in wanted and member.isreg() and (file := tar.extractfile(member)):
                    yield path, read_all(file, f"{self.path}, {path}", MOST_BYTES)


class Zip(_Archive):
    """A zip archive."""

    def _list(self) -> Iterator[tuple[str, int | None]]:
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                is_link = stat.S_ISLNK(member.external_attr >> 16)
                yield (
                    _clean(member.filename),
                    None if member.is_dir() else -1 if is_link else member.file_size,
                )

    def _contents(self, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                path = _clean(member.filename)
                is_link = stat.S_ISLNK(member.external_attr >> 16)
                if path in wanted and not is_link and not member.is_dir():
                    with archive.open(member) as file:
                        yield path, read_all(file, f"{self.path}, {path}", MOST_BYTES)


def _clean(name: str) -> str:
    """Returns a member's path without a root and without "." parts; one with ".." counts as hidden."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))
