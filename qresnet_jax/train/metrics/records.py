"""Writes and reads the metrics of a run: `metrics.jsonl`, and event files for TensorBoard."""

import contextlib
import json
import os
import pathlib
import time
from typing import NamedTuple

from qresnet_jax.errors import UserError
from qresnet_jax.system.files import as_path, write_all

FILE = "metrics.jsonl"
IN_FLOAT = "in_float_epochs"  # the metric, 1, of the steps in which the network is still float


class Metrics:
    """Records metrics in `metrics.jsonl`, one JSON object per step and line, and as TensorBoard scalars.

    A run that was cut off may have written more steps than its last checkpoint holds, or half a line. Opening the file
    cuts off everything after `last_step`, as those steps will be done again. Lines are appended, so a kill at any moment
    leaves complete lines and perhaps one that is not.

    Args:
      workdir: the directory of the run; it must exist.
      last_step: the step of the checkpoint that the run continues from; 0 for a new run.

    Raises:
      UserError: a complete line of the file is no JSON object with a step, or the file cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike[str], last_step: int) -> None:
        self.path = as_path(workdir) / FILE
        kept = [line for line in _read(self.path) if line.record["step"] <= last_step]
        self._last = kept[-1].record if kept else {}  # the record of the last step,
        self._is_held = False  # whether it is still to be written,
        self._start = kept[-1].start if kept else 0  # and where its line begins
        with contextlib.ExitStack() as on_error:
            try:
                self._file = on_error.enter_context(self.path.open("ab"))
            except PermissionError as error:
                raise UserError(f"{self.path} cannot be written: make it writable to continue") from error
            self._file.seek(self._file.truncate(kept[-1].end if kept else 0))
            self._events = _Events(self.path.parent, last_step)
            on_error.pop_all()

    def write(self, step: int, values: dict[str, float], *, more_follows: bool = False) -> None:
        """Records values for a step; if the last values had the same step, they share its line.

        Args:
          step: not less than the step of the last values.
          values: the metrics by name.
          more_follows: whether values of the same step will follow soon. The line is then written with those, or with
            the next step, or when the records are closed: adding to a line that is written rewrites the whole file.
        """
        if step == self._last.get("step"):
            self._last = self._last | values
        else:
            self._write_held()
            self._last, self._is_held, self._start = {"step": step, **values}, True, self._file.tell()
        if not self._is_held:
            self._rewrite_last()
        elif not more_follows:
            self._write_held()
        self._events.write(step, values)

    def at(self, step: int) -> dict[str, float]:
        """Returns what is recorded for a step, or {}."""
        if step == self._last.get("step"):
            return self._last
        return next((line for line in read_metrics(self.path) if line["step"] == step), {})

    def close(self) -> None:
        """Closes both files."""
        try:
            self._write_held()
        finally:
            self._file.close()
            self._events.close()

    def _write_held(self) -> None:
        if self._is_held:
            self._file.write(_encoded(self._last))
            self._file.flush()
            self._is_held = False

    def _rewrite_last(self) -> None:
        self._file.close()
        before = self.path.read_bytes()[: self._start]
        write_all({self.path: before + _encoded(self._last)})
        self._file = self.path.open("ab")


class MetricsOfOthers(Metrics):
    """Metrics of a process that does not record them, because process 0 does; it only remembers the last ones."""

    def __init__(self, workdir: str | os.PathLike[str], last_step: int) -> None:
        self.path = as_path(workdir) / FILE
        lines = [line for line in read_metrics(self.path) if line["step"] <= last_step]
        self._last = lines[-1] if lines else {}

    def write(self, step: int, values: dict[str, float], *, more_follows: bool = False) -> None:
        """Remembers values for a step, together with the last ones if they had the same step."""
        self._last = ({"step": step} if step != self._last.get("step") else self._last) | values

    def close(self) -> None:
        """Does nothing."""


def _encoded(record: dict[str, float]) -> bytes:
    return (json.dumps(record) + "\n").encode()


class _Events:
    """Writes a TensorBoard event file, without a thread.

    tensorboardX's own `SummaryWriter` writes in a thread; if that fails, as on a full disk, the program hangs.
    """

    def __init__(self, directory: pathlib.Path, last_step: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._Event = event_pb2.Event
        # The name contains the time in seconds. With the step in it, too, a clock that was set back cannot make it
        # overwrite an earlier file.
        self._writer = EventsWriter(str(directory / "events"), f".{last_step}")
        if last_step:  # hides what an earlier process wrote after the checkpoint
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(
                self._Event(wall_time=time.time(), step=last_step + 1, session_log=start)
            )
        self._writer.flush()

    def write(self, step: int, values: dict[str, float]) -> None:
        from tensorboardX.summary import scalar

        for name, value in values.items():
            event = self._Event(wall_time=time.time(), step=step, summary=scalar(name, value))
            self._writer.write_event(event)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """Reads the lines of a `metrics.jsonl`; an incomplete last line is left out.

    Returns:
      The objects, each with an integer `step`; [] if there is no file.

    Raises:
      UserError: the file cannot be read, or a complete line is no JSON object with a step.
    """
    return [line.record for line in _read(path)]


class _Line(NamedTuple):
    record: dict[str, float]
    start: int  # the position of its first byte in the file
    end: int  # that after its line break


def _read(path: pathlib.Path) -> list[_Line]:
    try:
        encoded = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): move it away to continue") from error
    lines, end = [], 0
    for number, text in enumerate(encoded[:-1], 1):  # what follows the last line break is incomplete or empty
        try:
            record = json.loads(text.decode())
            record["step"] = int(record["step"])
        except UnicodeDecodeError as error:
            raise UserError(f"{path} cannot be read ({error}): move it away to continue") from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is no JSON object with a step: move the file away to continue"
            ) from error
        start, end = end, end + len(text) + 1
        lines.append(_Line(record, start, end))
    return lines
