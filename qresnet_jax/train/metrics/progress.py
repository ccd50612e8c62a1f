"""Shows the progress of training: log lines, which `train.log` gets too, and a progress bar on a terminal."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from qresnet_jax.system.files import as_path
from qresnet_jax.system.process import StandardOutput
from qresnet_jax.train.processes import ALONE, Processes

if TYPE_CHECKING:
    from rich.console import Console

log = logging.getLogger("qresnet_jax")


@contextlib.contextmanager
def log_to(workdir: str | os.PathLike[str], processes: Processes = ALONE) -> Iterator[None]:
    """Sends the package's log to standard output and, appended, to `WORKDIR/train.log` while the context lasts.

    If there are several processes, only process 0 does so.
    """
    if not processes.is_first:
        yield
        return
    with contextlib.closing(log_file(workdir)) as file, logging_to(file, console_handler()):
        yield


@contextlib.contextmanager
def logging_to(*handlers: logging.Handler) -> Iterator[None]:
    """Sends the package's log to these handlers, and to no others, while the context lasts."""
    before = log.handlers[:], log.level, log.propagate
    log.handlers[:], log.propagate = handlers, False
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers[:], log.propagate = before[0], before[2]
        log.setLevel(before[1])


def log_file(workdir: str | os.PathLike[str]) -> logging.Handler:
    """Returns a handler that appends to `WORKDIR/train.log`, with the time."""
    file = _LogFile(as_path(workdir) / "train.log")
    file.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    return file


class _LogFile(logging.FileHandler):
    """Raises errors such as a full disk, where `logging` would only print a traceback."""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # re-raises the error, which is being handled when this is called


def console_handler() -> logging.Handler:
    """Returns a handler for standard output; on a terminal it is rich's, which keeps lines above the progress bar."""
    if not sys.stdout.isatty():
        return StandardOutput()
    from rich.logging import RichHandler

    return RichHandler(
        console=_console(), show_time=False, show_level=False, show_path=False, highlighter=None, markup=False
    )


def _console() -> "Console":
    import rich

    return rich.get_console()


class Progress:
    """Shows epoch, loss, accuracy, images per second and the time left, in a bar on a terminal or else in plain lines.

    It shows nothing in a process whose log takes errors only.

    There is a bar where the log goes to a handler that keeps lines above it, see `console_handler`.

    Args:
      total_steps: the number of steps of the run.
      step: the number of steps that are done.
      steps_per_epoch: the number of steps of an epoch.
      num_epochs: the number of epochs of the run.
    """

    def __init__(self, total_steps: int, step: int, steps_per_epoch: int, num_epochs: int) -> None:
        self.total_steps, self.steps_per_epoch, self.num_epochs = total_steps, steps_per_epoch, num_epochs
        self._bar = None
        self._start = (step, time.monotonic())
        if sys.stdout.isatty() and log.isEnabledFor(logging.INFO) and _keeps_lines_above():
            from rich import progress

            self._bar = progress.Progress(
                progress.TextColumn("epoch {task.fields[epoch]}"),
                progress.BarColumn(),
                progress.TextColumn("{task.percentage:>3.0f} %  {task.fields[numbers]}"),
                progress.TimeRemainingColumn(),
                console=_console(),
                transient=True,
            )
            self._task = self._bar.add_task("", total=total_steps, completed=step, epoch="", numbers="")
            self._bar.start()

    def advance(self, step: int) -> None:
        """Moves the bar to `step`."""
        if self._bar:
            self._bar.update(self._task, completed=step, epoch=self._epoch(step))

    def report(self, step: int, metrics: dict[str, float]) -> None:
        """Shows the metrics of the last interval, and logs them in one line.

        Args:
          step: the number of steps that are done.
          metrics: has `train_loss`, `train_accuracy` (0 to 1) and `images_per_second`.
        """
        if not log.isEnabledFor(logging.INFO):
            return
        numbers = (
            f"loss {metrics['train_loss']:.4f}  accuracy {metrics['train_accuracy']:.2%}  "
            f"{metrics['images_per_second']:,.0f} images/s"
        )
        if self._bar:
            self._bar.update(self._task, completed=step, epoch=self._epoch(step), numbers=numbers)
        first, began = self._start
        left = (time.monotonic() - began) / max(step - first, 1) * (self.total_steps - step)
        line = f"epoch {self._epoch(step)}  step {step}/{self.total_steps}  {numbers}  {_clock(left)} left"
        # On a terminal the bar shows this; the log file gets the line in any case.
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler) or not self._bar:
                handler.handle(log.makeRecord(log.name, logging.INFO, "", 0, line, (), None))

    def close(self) -> None:
        """Removes the bar."""
        if self._bar:
            self._bar.stop()

    def _epoch(self, step: int) -> str:
        return f"{min(-(-step // self.steps_per_epoch), self.num_epochs)}/{self.num_epochs}"


def _keeps_lines_above() -> bool:
    from rich.logging import RichHandler

    return any(isinstance(handler, RichHandler) for handler in log.handlers)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
