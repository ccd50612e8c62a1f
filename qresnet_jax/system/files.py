"""Reads paths as people write them, and writes several files so that either all of them are replaced or none."""

import contextlib
import errno
import os
import pathlib
import secrets
import shutil
from collections.abc import Iterable, Mapping

from qresnet_jax.errors import UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_CANNOT_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # a directory, on some file systems


def as_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path that a user has given, with `~` or `~name` at its beginning replaced by a home directory.

    Every path that comes from a flag, a config field or an argument goes through this function, once or several times.

    Raises:
      UserError: the path begins with `~name`, but there is neither such a user nor such a file or directory.
    """
    text = os.fspath(path)
    found = pathlib.Path(os.path.expanduser(text))
    first = found.parts[0] if found.parts else ""
    if first.startswith("~"):
        if text.startswith("~") and not os.path.lexists(first):
            raise UserError(f"{text}: there is no user {first[1:]}; if {first} is a name, write ./{text}")
        found = found.absolute()  # "./~" has lost its "./" by now, and must not be expanded the next time
    return found


def missing_directories(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the directories that must be made for a directory to be there, the outermost first.

    Raises:
      OSError: a file is in the way; `strerror` says which.
    """
    missing = [path]
    while not os.path.lexists(missing[-1]) and missing[-1] != missing[-1].parent:
        missing.append(missing[-1].parent)
    there = missing.pop()
    if not there.is_dir():
        what = "a file" if there.exists() else "a link that leads nowhere"
        raise NotADirectoryError(errno.ENOTDIR, f"{there} is {what}, not a directory", str(path))
    return missing[::-1]


def make_directory(path: pathlib.Path) -> list[pathlib.Path]:
    """Makes a directory and those above it, and returns the new ones, the outermost first.

    Raises:
      OSError: it cannot be made, and nothing has been; if a file is in the way, `strerror` says which.
    """
    missing = missing_directories(path)
    with contextlib.ExitStack() as undo:
        for directory in missing:
            directory.mkdir(exist_ok=True)
            undo.callback(_remove_empty, directory)
        undo.pop_all()
    return missing


def write_all(files: Mapping[pathlib.Path, bytes | bytearray], outdated: Iterable[pathlib.Path] = ()) -> None:
    """Writes files, and removes outdated ones. When this returns, all of it is on the disk; if it raises, nothing has changed.

    The files are written under temporary names and then renamed one after the other, so that a reader sees the old or
    the new content of a file and never a part of it. If anything fails, also a later rename, what was there before is
    put back. Only if the process is killed, or the machine stops, between two renames, some files are new and others old;
    the former content of the new ones is then beside them, in a hidden file that ends in `.old`.

    Args:
      files: the content of each file, by path; missing directories are made.
      outdated: the paths of files to remove; they need not exist.

    Raises:
      UserError: a file cannot be written or removed. If one could not be put back either, the message says where its
        former content is.
    """
    call = f".{os.getpid()}-{secrets.token_hex(4)}"
    parts = {path: path.parent / f"{call}-{i}.part" for i, path in enumerate(files)}
    olds = {path: path.parent / f"{call}-{i}.old" for i, path in enumerate([*files, *outdated])}
    made: list[pathlib.Path] = []
    lost: list[pathlib.Path] = []
    path = None
    try:
        with contextlib.ExitStack() as undo:
            for path, content in files.items():
                for directory in make_directory(path.parent):
                    made.append(directory)
                    undo.callback(_remove_empty, directory)
                if path.is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
                undo.callback(_remove, parts[path])
                _write(parts[path], content)
            for path, old in olds.items():
                _keep(path, old)
            for path, old in olds.items():
                undo.callback(_put_back, path, old, lost)
                if path in parts:
                    parts[path].replace(path)
                elif os.path.lexists(path):
                    path.unlink()
            for path in dict.fromkeys(path.parent for path in (*files, *made)):
                _sync(path)
            undo.pop_all()  # nothing is to be undone any more
    except OSError as error:
        way_out = "make room there" if error.errno in _FULL else "choose another place"
        message = f"{path} cannot be written ({error.strerror or error}): {way_out}"
        for path in lost:
            message += f". {path} has changed and could not be put back"
            message += f"; its former content is in {olds[path]}" if olds[path].exists() else ""
        raise UserError(message) from error
    finally:
        for path, old in olds.items():
            if path not in lost:
                _remove(old)


def _write(path: pathlib.Path, content: bytes | bytearray) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _keep(path: pathlib.Path, old: pathlib.Path) -> None:
    """Gives the file at `path`, if there is one, a second name."""
    if os.path.lexists(path):
        try:
            os.link(path, old, follow_symlinks=False)
        except OSError:  # there are file systems without hard links
            shutil.copy2(path, old, follow_symlinks=False)


def _put_back(path: pathlib.Path, old: pathlib.Path, lost: list[pathlib.Path]) -> None:
    """Undoes a rename or a removal that may have happened or not; adds the path to `lost` if that fails."""
    try:
        if os.path.lexists(old):
            if os.path.lexists(path) and os.path.samestat(path.lstat(), old.lstat()):
                return
            try:
                old.replace(path)
            except OSError:  # what refused a rename may refuse another
                path.unlink(missing_ok=True)
                _keep(old, path)
        elif not path.is_dir():
            path.unlink(missing_ok=True)
    except OSError:
        lost.append(path)


def _remove(path: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # it may not be there, or its directory may be gone
        path.unlink()


def _remove_empty(directory: pathlib.Path) -> None:
    with contextlib.suppress(OSError):  # somebody else has put something into it
        directory.rmdir()


def _sync(directory: pathlib.Path) -> None:
    """Makes renames in a directory last, where its file system can do so and the directory can be read."""
    try:
        descriptor = os.open(directory, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _CANNOT_SYNC:
            raise
    finally:
        os.close(descriptor)
