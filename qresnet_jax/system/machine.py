"""Finds out what this process may use of the machine."""

import os


def processors() -> int:
    """Returns the number of processors that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
