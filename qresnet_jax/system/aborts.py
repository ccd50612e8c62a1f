"""Keeps back what native libraries print, and explains it in one line when one of them aborts this process.

JAX ends a process that has lost another one from a thread of C++: it prints what it knows, with a stack trace, and calls
abort(). Neither is an exception that Python could catch.
"""

import ctypes
import io
import os
import signal
import sys
import tempfile
from collections.abc import Callable
from typing import Any

_kept: list[
    Any
] = []  # what native code has printed, in a file; and what it refers to, which must not be collected


def keep_native_output() -> None:
    """Sends what native code prints to a temporary file; `sys.stdout` and `sys.stderr` stay what they were.

    Call this before anything refers to one of the two, as a log does.
    """
    kept = tempfile.TemporaryFile()  # noqa: SIM115  # it is open for as long as the process lives
    _kept.append(kept)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: io.TextIOWrapper = getattr(sys, name)
        stream.flush()
        shown = os.fdopen(os.dup(number), "w", buffering=1, encoding=stream.encoding, errors=stream.errors)
        setattr(sys, name, shown)
        os.dup2(kept.fileno(), number)


def explain_aborts(explain: Callable[[str], str]) -> None:
    """From now on, if native code aborts this process, prints an explanation and ends it with status 2.

    Args:
      explain: maps what native code has printed, as far as it was kept, to what is printed to standard error; ""
        prints nothing. It is called in whichever thread aborts.
    """

    def aborted(_: int) -> None:
        text = ""
        if _kept and hasattr(_kept[0], "seek"):
            _kept[0].seek(0)
            text = _kept[0].read().decode(errors="replace")
        if line := explain(text):
            os.write(sys.stderr.fileno(), f"{line}\n".encode())
        os._exit(2)

    # Python runs handlers of its own only when the main thread gets on, and abort() does not wait for that.
    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(aborted)
    _kept.append(handler)
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
