"""The user's cache directory."""

import os
import pathlib

from qresnet_jax.errors import UserError


def cache_directory(name: str) -> pathlib.Path:
    """`$XDG_CACHE_HOME/qresnet_jax/NAME`, by default in `~/.cache`; made for this user alone.

    Raises:
      UserError: it cannot be made, or others may write to it: what lies there is run as this user.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = pathlib.Path(base) / "qresnet_jax" / name
    try:
        path.parent.parent.mkdir(parents=True, exist_ok=True)
        for directory in (path.parent, path):
            directory.mkdir(exist_ok=True, mode=0o700)
        statuses = [directory.stat() for directory in (path.parent, path)]
    except OSError as error:
        raise UserError(f"{path} cannot be made ({error.strerror}): set XDG_CACHE_HOME") from error
    if hasattr(os, "getuid") and any(s.st_uid != os.getuid() or s.st_mode & 0o022 for s in statuses):
        raise UserError(
            f"{path} belongs to or can be written by other users: chmod go-w it, or set XDG_CACHE_HOME"
        )
    return path
