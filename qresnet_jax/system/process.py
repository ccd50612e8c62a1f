"""Sets up a process of the command line: its memory, its log, and the messages of libraries that it hides."""

import logging
import os
import sys

from absl import logging as absl_logging


def restart_with_large_pages() -> None:
    """Restarts this process so that glibc keeps large buffers and takes them in large pages.

    Otherwise each training step on a CPU maps and zeroes its buffers anew, which takes up to half of its time. glibc
    reads these settings only when a process starts. If GLIBC_TUNABLES is set, as it is after the restart, or outside
    Linux, this does nothing.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        # One arena, because with several each thread that allocates a large buffer maps it anew.
        settings = ("hugetlb=1", "arena_max=1", f"mmap_threshold={2**32}", f"trim_threshold={2**33}")
        os.environ["GLIBC_TUNABLES"] = ":".join(f"glibc.malloc.{setting}" for setting in settings)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def log_to_standard_output() -> None:
    """Sends the package's log to standard output, and silences that of Orbax."""
    log = logging.getLogger("qresnet_jax")
    log.setLevel(logging.INFO)
    log.propagate = False
    log.addHandler(logging.StreamHandler(sys.stdout))
    # Orbax warns about settings that are intended, and prints tracebacks of failures that our own messages report.
    absl_logging.set_verbosity(absl_logging.FATAL)


def ignore_abandoned_reads() -> None:
    """Hides the errors of reads that Orbax abandons, in other threads, when a checkpoint is damaged.

    They would bury our own message.
    """
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    usual = sys.unraisablehook
    sys.unraisablehook = lambda event: "Event loop is closed" in str(event.exc_value) or usual(event)
