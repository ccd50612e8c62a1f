"""Writes several files so that an error is found before any of them is replaced."""

import errno
import os
import pathlib
from collections.abc import Iterable, Mapping

from qresnet_jax.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_all(files: Mapping[pathlib.Path, bytes | bytearray], outdated: Iterable[pathlib.Path] = ()) -> None:
    """Writes files under temporary names; when all are on disk, renames them, and removes outdated files.

    Args:
      files: the content of each file, by path; missing directories are made.
      outdated: the paths of files to remove; they need not exist.

    Raises:
      UserError: a file cannot be written; no file has been replaced then, unless renaming itself failed.
    """
    aside = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    path = None
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.is_dir():
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            _write(aside[path], content)
        for path, part in aside.items():
            part.replace(path)
        for path in outdated:
            path.unlink(missing_ok=True)
    except OSError as error:
        way_out = "make room there" if error.errno in _FULL else "choose another place"
        raise UserError(f"{path} cannot be written ({error.strerror}): {way_out}") from error
    finally:
        for part in aside.values():
            if part.parent.is_dir():
                part.unlink(missing_ok=True)


def _write(path: pathlib.Path, content: bytes | bytearray) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
