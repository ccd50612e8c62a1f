"""Turns SIGTERM and Ctrl-C into a flag that the training loop reads between steps."""

import contextlib
import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, Self

from jax.experimental import multihost_utils

_polls = itertools.count()  # in this process


class _Stopped(BaseException):
    """Is raised by a signal in `StopSignal.at_once`; no `except Exception` catches it."""


class StopSignal:
    """A context in which the first SIGTERM or SIGINT sets a flag; a second SIGINT raises KeyboardInterrupt as usual.

    `bool(stop)` says whether a signal has come, and `str(stop)` is its name. Outside the main thread Python cannot
    catch signals, so there the flag stays false. A signal that comes in a context inside another one sets the flags of
    both, so that what follows does not begin.

    Args:
      shared: whether several processes stop together. A SIGTERM or SIGINT to one of them then sets the flag of all, in
        the same call of `poll`: JAX sees the SIGTERM, tells the other processes, and agrees with them on the call.
    """

    def __init__(self, *, shared: bool = False) -> None:
        self._name = ""
        self._shared = shared
        self._at_once = False  # whether a signal ends what runs
        self._forwarded = False  # whether a SIGINT has been sent on as a SIGTERM
        self._previous: dict[int, Any] = {}  # the handlers to put back

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT,) if self._shared else (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._caught)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
            outer = getattr(handler, "__self__", None)
            if isinstance(outer, StopSignal):
                outer._name = outer._name or self._name

    def __bool__(self) -> bool:
        return bool(self._name)

    def __str__(self) -> str:
        return self._name

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """A context that a signal ends at once, without an error, for long work of which nothing is to be saved.

        Several processes that stop together finish the work all the same.
        """
        self._at_once = not self._shared
        try:
            yield
        except _Stopped:
            pass
        finally:
            self._at_once = False

    def poll(self) -> bool:
        """Returns the flag, as it is after each part of the work; all processes call this equally often.

        It costs no communication until there is a signal.
        """
        if self._shared and multihost_utils.reached_preemption_sync_point(next(_polls)):
            self._name = signal.SIGTERM.name
        return bool(self)

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        if self._name or self._forwarded:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        if self._shared:
            self._forwarded = True
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self._name = signal.Signals(number).name
        error = sys.stderr.fileno() if self._shared else 2  # where native output is kept back, they differ
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        # Not with print, as the signal may have come while Python was writing.
        os.write(
            error, f"\n{signal.Signals(number).name}: stopping once everything is saved{again}\n".encode()
        )
        if self._at_once:
            raise _Stopped
