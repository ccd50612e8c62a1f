"""Turns SIGTERM and Ctrl-C into a flag that the training loop reads between steps."""

import os
import signal
import threading
from types import FrameType
from typing import Any, Self


class StopSignal:
    """A context in which the first SIGTERM or SIGINT sets a flag; a second SIGINT raises KeyboardInterrupt as usual.

    `bool(stop)` says whether a signal has come, and `str(stop)` is its name. Outside the main thread Python cannot
    catch signals, so there the flag stays false. A signal that comes in a context inside another one sets the flags of
    both, so that what follows does not begin.
    """

    def __init__(self) -> None:
        self._name = ""
        self._previous: dict[int, Any] = {}  # the handlers to put back

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
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

    def _caught(self, number: int, _frame: FrameType | None) -> None:
        if self._name and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._name = signal.Signals(number).name
        again = "; Ctrl-C again stops at once" if number == signal.SIGINT else ""
        # Not with print, as the signal may have come while Python was writing.
        os.write(2, f"\n{self._name}: stopping once everything is saved{again}\n".encode())
