"""Sets up a process of the command line: its memory, its log, and the messages of libraries that it hides."""

import importlib.metadata
import importlib.util
import logging
import os
import pkgutil
import sys

from absl import logging as absl_logging

# One arena, because with several each thread that allocates a large buffer maps it anew.
_SETTINGS = ("hugetlb=1", "arena_max=1", f"mmap_threshold={2**32}", f"trim_threshold={2**33}")
_TUNABLES = ":".join(f"glibc.malloc.{setting}" for setting in _SETTINGS)


def restart_with_large_pages() -> None:
    """Restarts this process, if it will train on a CPU, so that glibc keeps large buffers and takes them in large pages.

    Otherwise each training step on a CPU maps and zeroes its buffers anew, which takes up to half of its time. glibc
    reads these settings, in the variable GLIBC_TUNABLES, only when a process starts. The restarted process takes the
    variable out of its environment, so that no process that it starts has it.

    This does nothing if GLIBC_TUNABLES is set already, outside Linux or without glibc, on an accelerator, or if the
    process has imported JAX, as it is then more than the command.
    """
    given = os.environ.get("GLIBC_TUNABLES")
    if given == _TUNABLES:  # this is the restarted process
        del os.environ["GLIBC_TUNABLES"]
    elif given is None and _has_glibc() and sys.executable and "jax" not in sys.modules and will_use_cpu():
        environment = {**os.environ, "GLIBC_TUNABLES": _TUNABLES}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)


def _has_glibc() -> bool:
    try:
        return sys.platform == "linux" and (os.confstr("CS_GNU_LIBC_VERSION") or "").startswith("glibc")
    except (ValueError, OSError):
        return False


def will_use_cpu() -> bool:
    """Returns whether JAX will certainly compute on a CPU. It neither imports JAX nor touches a device.

    If the environment names no platform, any installed plugin of JAX for an accelerator makes the answer False, even
    where there is no such device.
    """
    if named := os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME"):
        return named.split(",")[0].strip().lower() == "cpu"
    if any(os.environ.get(name) for name in ("PJRT_NAMES_AND_LIBRARY_PATHS", "TPU_LIBRARY_PATH")):
        return False
    plugins = importlib.util.find_spec("jax_plugins")
    in_packages = plugins is not None and any(pkgutil.iter_modules(plugins.submodule_search_locations))
    announced = importlib.metadata.entry_points(group="jax_plugins")
    return not in_packages and not announced and importlib.util.find_spec("libtpu") is None


class StandardOutput(logging.StreamHandler):
    """Writes to standard output as long as anybody reads it; after that the work goes on in silence, as in `... | head`."""

    def __init__(self) -> None:
        super().__init__(sys.stdout)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drops what is written after the reader has closed the pipe; shows other errors as `logging` does."""
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            return super().handleError(record)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())  # Python's own flush at the end would fail again
        os.close(nowhere)


def log_to_standard_output() -> None:
    """Sends the package's log to standard output, and silences that of Orbax."""
    log = logging.getLogger("qresnet_jax")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(StandardOutput())
    # Orbax warns about settings that are intended, and prints tracebacks of failures that our own messages report.
    absl_logging.set_verbosity(absl_logging.FATAL)


def ignore_abandoned_tasks() -> None:
    """Hides the errors of what Orbax abandons, in other threads, when one of many reads or writes fails.

    That is when the disk is full, or when a checkpoint without checksums, of an earlier version, is damaged. These errors
    would bury our own message.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    usual = sys.unraisablehook
    sys.unraisablehook = lambda event: "Event loop is closed" in str(event.exc_value) or usual(event)
