"""Makes the directory of a run, and locks it so that only one process trains in it."""

import contextlib
import errno
import fcntl
import json
import os
import pathlib
import secrets
from collections.abc import Iterator

from qresnet_jax.errors import UserError
from qresnet_jax.system.files import as_path, make_directory
from qresnet_jax.train.processes import ALONE, ProcessError, Processes

LOCK = ".lock"
_NOT_WRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


@contextlib.contextmanager
def claim_workdir(workdir: str | os.PathLike[str], processes: Processes = ALONE) -> Iterator[pathlib.Path]:
    """Makes the directory of a run, and locks it while the context lasts; process 0 does so for all.

    Args:
      workdir: the directory, absolute or relative.
      processes: those that train in it together.

    Yields:
      Its absolute path.

    Raises:
      UserError: another process trains in the directory, or it cannot be written, now or while the context lasts.
      ProcessError: the directory of this process is not that of process 0.
    """
    workdir = as_path(workdir).absolute()
    if not processes.is_first:
        name, token = json.loads(processes.share("workdir", ""))
        with contextlib.suppress(OSError):
            if (workdir / LOCK).read_text() == token:
                yield workdir
                return
        raise ProcessError(
            f"the workdir {workdir} of process {processes.index} is not {name} of process 0: give the same --workdir to "
            "all processes, on a file system that all of them share"
        )
    try:
        make_directory(workdir)
        lock = (workdir / LOCK).open("a+")
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
            if processes.count > 1:
                token = secrets.token_hex()
                lock.truncate(0)
                lock.write(token)
                lock.flush()
                processes.share("workdir", json.dumps([str(workdir), token]))
            yield workdir
        except OSError as error:
            if error.errno not in _NOT_WRITABLE:
                raise
            raise UserError(
                f"{error.filename or workdir} cannot be written ({error.strerror}). What was saved is kept: make room, "
                "and run the same command again to continue"
            ) from error
