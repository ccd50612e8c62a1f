"""Several real processes of the command: free ports, a time limit, SIGTERM before SIGKILL, and every log on a failure."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time

from tests.conftest import DEVICES, KEPT, REPO

FLAGS = ("--config=configs/digits.py", "--config.num_epochs=3", "--config.log_every_steps=5")
LIMIT = 240  # seconds for all that a group of processes does
_BETWEEN_SIGNALS = 10  # seconds


def free_port():
    with socket.socket() as trial:
        trial.bind(("", 0))
        return trial.getsockname()[1]


class Group:
    """Some of `count` processes; `errors` and `said` are what each has printed, `status` how it has ended."""

    def __init__(self, place, count, *flags, devices=2, which=None, each=(), port=None, env=(), slurm=False):
        self.until = time.monotonic() + LIMIT
        port = port or free_port()
        kept = {k: v for k, v in os.environ.items() if k in KEPT or k.startswith("JAX_")}
        self.running, self.files = {}, {}
        place.mkdir(exist_ok=True)
        for i in range(count) if which is None else which:
            own = [f"--config.distributed.coordinator=localhost:{port}"]
            own += [f"--config.distributed.num_processes={count}", f"--config.distributed.process_id={i}"]
            environment = {**kept, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": DEVICES.format(devices), **dict(env)}
            if slurm:
                own = ["--config.distributed.auto=True"]
                environment |= _slurm(count, i, port)
            command = [sys.executable, str(REPO / "main.py"), *FLAGS, *own, *flags, *dict(each).get(i, ())]
            with contextlib.ExitStack() as stack:
                files = [place / f"{i}.out", place / f"{i}.err"]
                out, err = (stack.enter_context(path.open("w")) for path in files)
                self.files[i] = files
                self.running[i] = subprocess.Popen(
                    command, cwd=REPO, env={**environment, "PYTHONUNBUFFERED": "1"}, stdout=out, stderr=err
                )

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        for signal in ("terminate", "kill"):
            for process in self.running.values():
                if process.poll() is None:
                    getattr(process, signal)()
            until = time.monotonic() + _BETWEEN_SIGNALS
            while any(p.poll() is None for p in self.running.values()) and time.monotonic() < until:
                time.sleep(0.05)
        if kind:
            print(self.logs())

    @property
    def said(self):
        return {i: out.read_text() for i, (out, _) in self.files.items()}

    @property
    def errors(self):
        return {i: err.read_text() for i, (_, err) in self.files.items()}

    @property
    def status(self):
        return {i: process.poll() for i, process in self.running.items()}

    def logs(self):
        each = zip(self.status.items(), self.said.values(), self.errors.values(), strict=True)
        return "\n".join(
            f"==== process {i}, status {status}\n{out}---- errors\n{err}" for (i, status), out, err in each
        )

    def wait(self, condition=None):
        """Waits until the condition holds, by default until all processes have ended; returns their statuses."""
        while not (condition() if condition else all(s is not None for s in self.status.values())):
            assert condition is None or None in self.status.values(), f"too late\n{self.logs()}"
            assert time.monotonic() < self.until, f"the time is up\n{self.logs()}"
            time.sleep(0.02)
        return self.status


def _slurm(count, index, port):
    """What SLURM sets for a task. JAX derives the port from the number of the job, unless it is given."""
    return {
        "SLURM_JOB_ID": "4711",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NTASKS": str(count),
        "SLURM_PROCID": str(index),
        "SLURM_LOCALID": str(index),
        "SLURM_STEP_NUM_NODES": "1",
        "JAX_COORDINATOR_PORT": str(port),
    }


def recorded(workdir):
    """The last step in metrics.jsonl, 0 for none."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0
