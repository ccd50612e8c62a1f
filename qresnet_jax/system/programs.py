"""Runs other programs, for a limited time."""

import os
import pathlib
import shlex
import signal
import subprocess
from collections.abc import Sequence


class TimeLimitError(Exception):
    """A program has not ended in time; the message names it and the time."""


def run_program(
    command: Sequence[str], seconds: float, *, directory: str | pathlib.Path | None = None, given: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Runs a program to its end, and returns its status, its output and its messages.

    Args:
      command: the program and its arguments.
      seconds: how long it may take.
      directory: where it runs; by default in the current one.
      given: its standard input.

    Raises:
      TimeLimitError: it took longer. It is killed then, and with it what it has started, as `gcc` starts `cc1`.
      OSError: it cannot be started.
    """
    # A session of its own makes a group of processes, which can be killed together.
    process = subprocess.Popen(
        command,
        cwd=directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        try:
            output, messages = process.communicate(given, timeout=seconds)
        except BaseException as error:  # Ctrl-C does not reach another session
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise TimeLimitError(
                    f"{shlex.join(command)} did not end within {seconds:g} seconds"
                ) from error
            raise
    return subprocess.CompletedProcess(command, process.returncode, output, messages)
