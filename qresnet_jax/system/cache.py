"""Finds the user's cache directory, and makes JAX keep its compiled programs there."""

import logging
import os
import pathlib

from qresnet_jax.errors import UserError
from qresnet_jax.system.files import as_path, make_directory
from qresnet_jax.system.machine import processors


def cache_directory(name: str) -> pathlib.Path:
    """Makes a directory that only this user can write, and returns its path.

    It is `$XDG_CACHE_HOME/qresnet_jax/NAME`, or `~/.cache/qresnet_jax/NAME` if the variable is not set.

    Raises:
      UserError: the directory cannot be made, or other users may write to it. That would be dangerous, because programs
        in it are run as this user.
    """
    path = as_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "qresnet_jax" / name
    try:
        make_directory(path.parent.parent)
        for directory in (path.parent, path):
            directory.mkdir(exist_ok=True, mode=0o700)
        statuses = [directory.stat() for directory in (path.parent, path)]
    except OSError as error:
        raise UserError(
            f"{path} cannot be made ({error.strerror}): set XDG_CACHE_HOME to a directory that you can write"
        ) from error
    if hasattr(os, "getuid") and any(s.st_uid != os.getuid() or s.st_mode & 0o022 for s in statuses):
        raise UserError(
            f"{path} belongs to or can be written by other users: run chmod go-w on it, or set XDG_CACHE_HOME to "
            "another directory"
        )
    return path


def cache_compilations() -> None:
    """Makes JAX keep its compiled programs in the user's cache, unless JAX has been told where to keep them.

    If the cache cannot be made, this logs a warning, and programs are compiled anew in each process.
    """
    import jax

    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]  # JAX adds its options at run time
        return
    # XLA compiles for a certain number of processors, but JAX's cache keys do not contain that number.
    try:
        directory = cache_directory(f"jax_{processors()}_processors")
    except UserError as error:
        logging.getLogger("qresnet_jax").warning("compiled programs are not kept: %s", error)
        return
    jax.config.update("jax_compilation_cache_dir", str(directory))
    # Hundreds of small functions build a network, and without the cache they take 7 seconds to compile.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
