"""Batches that are read ahead: their order, with any number of workers, and what is left when a stream ends."""

import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from qresnet_jax.data import Split
from qresnet_jax.data.streaming.stream import Stream
from qresnet_jax.errors import DataError


class Numbers:
    """Batches that hold their own numbers, and the process that has made them."""

    def __init__(self, count, broken=None):
        self.count, self.broken = count, broken

    def __len__(self):
        return self.count

    def __getitem__(self, number):
        if number == self.broken:
            raise DataError(f"batch {number} is broken")
        return Split(np.full((2, 1000), number, np.uint8), np.array([number, os.getpid()], np.int32))


def threads():
    return {thread.name for thread in threading.enumerate() if "tqdm" not in thread.name}


def read(stream):
    return [int(batch.labels[0]) for batch in stream]


def test_batches_come_in_order_from_any_start_on():
    before = threads()
    for start in (0, 3, 7):
        with Stream(Numbers(7), start, 0, 1, lambda batch: batch) as stream:
            assert read(stream) == list(range(start, 7))
    assert threads() == before


def test_workers_give_the_same_batches_in_the_same_order_and_end(monkeypatch):
    before = threads()
    with Stream(Numbers(9), 2, 2, 2000, lambda batch: batch) as stream:
        batches = list(stream)
    assert [int(batch.labels[0]) for batch in batches] == list(range(2, 9))
    assert len({int(batch.labels[1]) for batch in batches} - {os.getpid()}) == 2
    assert all(
        (batch.images == batch.labels[0]).all() and type(batch.images) is np.ndarray for batch in batches
    )
    with (
        pytest.raises(DataError, match="batch 4 is broken"),
        Stream(Numbers(9, 4), 0, 1, 1, lambda x: x) as stream,
    ):
        read(stream)
    wait_for(lambda: threads() == before)  # Grain does not wait for a thread that it has told to end
    assert not multiprocessing.active_children()


class Dying(Numbers):
    """Batches whose worker is killed, as the system does it when memory is short."""

    def __getitem__(self, number):
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_an_error_and_not_a_wait():
    with pytest.raises(
        DataError, match="a process that decodes images has died .*-9.*fewer config.data.workers"
    ):
        next(Stream(Dying(9), 0, 1, 1, lambda batch: batch))
    assert not multiprocessing.active_children()


def test_an_error_comes_at_its_place_and_closes_the_stream():
    before = threads()
    stream = Stream(Numbers(9, broken=4), 2, 0, 1, lambda batch: batch)
    assert [int(next(stream).labels[0]) for _ in range(2)] == [2, 3]
    with pytest.raises(DataError, match="batch 4 is broken"):
        next(stream)
    assert threads() == before
    assert list(stream) == []


def test_the_next_batches_are_handed_over_while_the_caller_is_busy():
    handed = []
    with Stream(Numbers(9), 0, 0, 1, lambda batch: handed.append(int(batch.labels[0])) or batch) as stream:
        next(stream)
        for _ in range(1000):
            if len(handed) > 2:
                break
            time.sleep(0.01)
        assert handed[:3] == [0, 1, 2] and len(handed) <= 4  # and no more than a few are held


OWNER = """
import sys
from qresnet_jax.data.streaming.stream import Stream
from tests.data.streaming.test_stream import Numbers

if __name__ == "__main__":
    stream = Stream(Numbers(1000), 0, 2, 2000, lambda batch: batch)
    workers = {int(next(stream).labels[1]) for _ in range(4)}
    with open(sys.argv[1], "w") as said:
        print(workers, file=said)
    sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_when_their_parent_is_killed_and_take_no_signals_from_the_terminal(tmp_path):
    (tmp_path / "owner.py").write_text(OWNER)
    said = tmp_path / "said"
    repo = str(pathlib.Path(__file__).parents[3])
    owner = subprocess.Popen(
        [sys.executable, tmp_path / "owner.py", said],
        env={**os.environ, "PYTHONPATH": repo},
        stdin=subprocess.PIPE,
    )
    try:
        wait_for(lambda: said.exists() and said.read_text().endswith("\n"))
        workers = eval(said.read_text())
        assert len(workers) == 2
        for worker in workers:
            os.kill(worker, signal.SIGINT)
            os.kill(worker, signal.SIGTERM)
        time.sleep(0.5)
        assert all(map(is_running, workers))
    finally:
        owner.kill()
        owner.communicate(timeout=60)
    wait_for(lambda: not any(map(is_running, workers)))


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert condition()


def is_running(process):
    try:
        return pathlib.Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
