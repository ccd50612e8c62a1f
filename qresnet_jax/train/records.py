"""Writes and reads the metrics of a run: `metrics.jsonl`, and event files for TensorBoard."""

import json
import os
import pathlib
import time

from qresnet_jax.errors import UserError
from qresnet_jax.system.files import as_path, write_all

FILE = "metrics.jsonl"


class Metrics:
    """Records metrics in `metrics.jsonl`, one JSON object per step and line, and as TensorBoard scalars.

    A run that was cut off may have written more steps than its last checkpoint holds, or half a line. Opening the file
    drops everything after `last_step`, as those steps will be done again.

    Args:
      workdir: the directory of the run; it must exist.
      last_step: the step of the checkpoint that the run continues from; 0 for a new run.

    Raises:
      UserError: a complete line of the file is no JSON object with a step, or the file cannot be written.
    """

    def __init__(self, workdir: str | os.PathLike[str], last_step: int) -> None:
        self.path = as_path(workdir) / FILE
        self._lines = [line for line in read_metrics(self.path) if line["step"] <= last_step]
        self._encoded = [_encoded(line) for line in self._lines]
        self._rewrite()
        self._file = self.path.open("ab")
        self._events = _Events(self.path.parent, last_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records values for a step; if the last line has the same step, they are added to it."""
        if self._lines and self._lines[-1]["step"] == step:
            self._lines[-1] |= values
            self._encoded[-1] = _encoded(self._lines[-1])
            self._file.close()
            self._rewrite()
            self._file = self.path.open("ab")
        else:
            self._lines.append({"step": step, **values})
            self._encoded.append(_encoded(self._lines[-1]))
            self._file.write(self._encoded[-1])
            self._file.flush()
        self._events.write(step, values)

    def at(self, step: int) -> dict[str, float]:
        """Returns what is recorded for a step, or {}."""
        return next((line for line in reversed(self._lines) if line["step"] == step), {})

    def close(self) -> None:
        """Closes both files."""
        self._file.close()
        self._events.close()

    def _rewrite(self) -> None:
        write_all({self.path: b"".join(self._encoded)})


def _encoded(line: dict[str, float]) -> bytes:
    return (json.dumps(line) + "\n").encode()


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
    try:
        lines = path.read_text().split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): move it away to continue") from error
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line break is incomplete or empty
        try:
            record = json.loads(line)
            record["step"] = int(record["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is no JSON object with a step: move the file away to continue"
            ) from error
        records.append(record)
    return records
