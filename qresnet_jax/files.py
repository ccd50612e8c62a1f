"""Files written whole: all of them or none."""

import os
import pathlib
from collections.abc import Iterable, Mapping

from qresnet_jax.errors import UserError


def write_all(files: Mapping[pathlib.Path, bytes], outdated: Iterable[pathlib.Path] = ()) -> None:
    """Writes files aside; when all are complete, puts them in place and removes the outdated ones.

    Args:
      files: content by path; missing directories are made.
      outdated: paths of files that need not exist.

    Raises:
      UserError: a file that cannot be written.
    """
    aside = {path: path.with_name(f".{path.name}.{os.getpid()}.part") for path in files}
    try:
        for path, content in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            aside[path].write_bytes(content)
        for path, part in aside.items():
            part.replace(path)
        for path in outdated:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{error.filename} cannot be written ({error.strerror}): make room there, or choose another place"
        ) from error
    finally:
        _remove(aside.values())


def _remove(parts):
    for part in parts:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)
