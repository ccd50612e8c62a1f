"""Makes the directory of a run, and locks it so that only one process trains in it."""

import contextlib
import errno
import fcntl
import os
import pathlib
from collections.abc import Iterator

from qresnet_jax.errors import UserError
from qresnet_jax.system.files import as_path, make_directory

_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextlib.contextmanager
def claim_workdir(workdir: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Makes the directory of a run, and locks it while the context lasts.

    Args:
      workdir: the directory, absolute or relative.

    Yields:
      Its absolute path.

    Raises:
      UserError: another process trains in the directory, or it cannot be written, now or while the context lasts.
    """
    workdir = as_path(workdir).absolute()
    try:
        make_directory(workdir)
        lock = (workdir / ".lock").open("w")
    except OSError as error:
        raise UserError(
            f"the workdir {workdir} cannot be written ({error.strerror}): give another --workdir"
        ) from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another process trains in {workdir}: wait for it, or give another --workdir"
            ) from error
        try:
            yield workdir
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            raise UserError(
                f"{error.filename or workdir} cannot be written ({error.strerror}). What was saved is kept: make room, "
                "and run the same command again to continue"
            ) from error
