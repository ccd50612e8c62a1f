"""What a run writes down as it goes: `metrics.jsonl` and TensorBoard event files."""

import json
import os
import pathlib
import time

from qresnet_jax.errors import UserError
from qresnet_jax.files import write_all

FILE = "metrics.jsonl"


class Metrics:
    """Metrics by step, one JSON object a line, each step once, and the same as TensorBoard scalars.

    A run that was cut off may have written further than its checkpoint, or half a line: opening the file drops
    everything past `last_step`, as those steps will be done again.

    Args:
      workdir: an existing directory.
      last_step: of the checkpoint that the run goes on from; 0 for a new run.

    Raises:
      UserError: a complete line of the file is no JSON object with a step, or it cannot be written, then or later.
    """

    def __init__(self, workdir: pathlib.Path, last_step: int):
        self.path = pathlib.Path(workdir) / FILE
        self._lines = [line for line in read_metrics(self.path) if line["step"] <= last_step]
        write_all({self.path: b"".join(map(_encoded, self._lines))})
        self._file = os.open(self.path, os.O_RDWR)
        self._end = os.fstat(self._file).st_size
        self._events = _Events(self.path.parent, last_step)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Records values; those of the last step written are added to its line."""
        before = self._lines[-1] if self._lines and self._lines[-1]["step"] == step else {}
        line = {"step": step} | before | values
        self._replace_end(_encoded(before) if before else b"", _encoded(line))
        if before:
            self._lines.pop()
        self._lines.append(line)
        self._events.write(step, values)

    def at(self, step: int) -> dict[str, float]:
        """What is recorded for a step, {} if nothing."""
        return next((line for line in reversed(self._lines) if line["step"] == step), {})

    def close(self) -> None:
        """Closes both."""
        os.close(self._file)
        self._events.close()

    def _replace_end(self, old, new):
        """Overwrites the file's last bytes; where that fails, as on a full disk, they are put back."""
        start = at = self._end - len(old)
        try:
            while at < start + len(new):
                at += os.pwrite(self._file, new[at - start :], at)
        except OSError:
            os.pwrite(self._file, old, start)
            os.ftruncate(self._file, self._end)
            raise
        os.ftruncate(self._file, at)
        self._end = at


def _encoded(line):
    return (json.dumps(line) + "\n").encode()


class _Events:
    """A TensorBoard event file, written at once.

    tensorboardX's own `SummaryWriter` writes in a thread; where that fails, as on a full disk, the program hangs.
    """

    def __init__(self, directory: pathlib.Path, last_step: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        self._Event = event_pb2.Event
        # Named by the second; the step keeps a clock that was set back from overwriting an earlier file.
        self._writer = EventsWriter(str(directory / "events"), f".{last_step}")
        if last_step:  # hides what an earlier process wrote past the checkpoint
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._writer.write_event(
                self._Event(wall_time=time.time(), step=last_step + 1, session_log=start)
            )
        self._writer.flush()

    def write(self, step, values):
        from tensorboardX.summary import scalar

        for name, value in values.items():
            event = self._Event(wall_time=time.time(), step=step, summary=scalar(name, value))
            self._writer.write_event(event)
        self._writer.flush()

    def close(self):
        self._writer.close()


def read_metrics(path: pathlib.Path) -> list[dict[str, float]]:
    """The lines of a `metrics.jsonl`, [] if there is no file; a torn last line is left out.

    Raises:
      UserError: another line is no JSON object with a step.
    """
    try:
        lines = path.read_text().split("\n")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}): move it away to go on") from error
    records = []
    for number, line in enumerate(lines[:-1], 1):  # what follows the last line's end is torn, or empty
        try:
            record = json.loads(line)
            record["step"] = int(record["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number} is no JSON object with a step: move the file away to go on"
            ) from error
        records.append(record)
    return records
