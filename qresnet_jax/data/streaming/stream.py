"""Reads batches ahead, in worker processes of Grain or in this one."""

import contextlib
import multiprocessing
import os
import queue
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from multiprocessing import resource_tracker
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from qresnet_jax.data.dataset import Split
from qresnet_jax.errors import DataError, UserError

_T = TypeVar("_T")

AHEAD = 2  # batches that wait, and as many for each worker
_POLL_SECONDS = 0.2
_lock, _streams = threading.Lock(), 0  # the number of those that have workers
_SHARED_MEMORY = "/dev/shm"
_LEFT_FREE = 4  # times what the batches that wait need; with less, they go through pipes


class Batches(Protocol):
    """Batches that are read by their numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Split: ...


class Stream(Generic[_T]):
    """An iterator over batches, which a thread fetches and hands over while the caller is busy; a context manager.

    Batches come in their order, whatever the number of workers. Workers end when the stream is closed, and by themselves
    when this process is killed. They take no signals: those that the terminal sends to all processes are for this one.

    Args:
      batches: can be pickled, as workers get them.
      start: the number of the first batch.
      workers: the number of worker processes; with 0, the thread reads the batches.
      batch_bytes: the memory that a batch takes.
      hand_over: is called with each batch in the thread; the stream yields what it returns.
    """

    def __init__(
        self,
        batches: Batches,
        start: int,
        workers: int,
        batch_bytes: int,
        hand_over: Callable[[Split], _T],
    ) -> None:
        self._batches, self._start, self._workers, self._bytes = batches, start, workers, batch_bytes
        self._hand_over = hand_over
        self._ready: queue.Queue[tuple[_T | None, Exception | None]] = queue.Queue(AHEAD)
        self._closing = threading.Event()
        if workers:
            import grain  # noqa: F401  # not in the thread, as this thread may be importing, too
        self._thread = threading.Thread(target=self._run, name="batches", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Stream[_T]":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[_T]:
        return self

    def __next__(self) -> _T:
        if self._closing.is_set():
            raise StopIteration
        batch, error = self._ready.get()
        if error is not None:
            self.close()
            raise error
        assert batch is not None
        return batch

    def close(self) -> None:
        """Ends the workers and the thread, and waits for them; what waits is dropped."""
        self._closing.set()
        while self._thread.is_alive():
            with contextlib.suppress(queue.Empty):
                self._ready.get_nowait()
            self._thread.join(0.05)

    def _run(self) -> None:
        # The workers, and the threads that start them, inherit what is blocked. The process that watches over their shared
        # memory is started before, as that unblocks the signals.
        if self._workers:
            resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
        try:
            with contextlib.closing(self._read()) as batches:
                for batch in batches:
                    if not self._put((self._hand_over(batch), None)):
                        return
            self._put((None, StopIteration()))
        except UserError as error:
            self._put((None, error))
        except Exception as error:
            self._put((None, _explained(error)))

    def _put(self, item: tuple[_T | None, Exception | None]) -> bool:
        """Returns whether the item could be put before the stream was closed."""
        while not self._closing.is_set():
            with contextlib.suppress(queue.Full):
                self._ready.put(item, timeout=_POLL_SECONDS)
                return True
        return False

    def _read(self) -> Generator[Split]:
        if not self._workers:
            for number in range(self._start, len(self._batches)):
                yield self._batches[number]
            return
        import grain
        from absl import flags

        if not flags.FLAGS.is_parsed():  # as in a notebook; Grain reads flags of its own
            flags.FLAGS.mark_as_parsed()
        # Each worker reads every n-th batch, so none of them has to wait for another.
        options = grain.experimental.DatasetOptions(min_shm_size=self._least_shared())
        dataset = (
            grain.MapDataset.source(self._batches)[self._start :]
            .to_iter_dataset(grain.ReadOptions(num_threads=0, prefetch_buffer_size=0))
            .mp_prefetch(
                grain.MultiprocessingOptions(self._workers, per_worker_buffer_size=AHEAD),
                worker_init_fn=_init_worker,
            )
        )
        dataset = grain.experimental.WithOptionsIterDataset(dataset, options)
        with _shared_memory(), contextlib.closing(iter(dataset)) as iterator:
            for batch in iterator:
                # Copied, as JAX may compute with the memory that it is given for longer than the batch is needed here.
                yield Split(*map(np.array, batch))
                del batch

    def _least_shared(self) -> int:
        """Returns from which size on arrays go through shared memory: all, unless there is too little of it."""
        try:
            free = shutil.disk_usage(_SHARED_MEMORY).free
        except OSError:
            return sys.maxsize
        waiting = (self._workers * (AHEAD + 1) + AHEAD + 1) * self._bytes
        return 0 if free > _LEFT_FREE * waiting else sys.maxsize


@contextlib.contextmanager
def _shared_memory() -> Iterator[None]:
    """Ends Grain's threads that free shared memory, which it leaves running, when the last stream is closed."""
    global _streams
    with _lock:
        _streams += 1
    try:
        yield
    finally:
        with _lock:
            _streams -= 1
            if not _streams:
                with contextlib.suppress(ImportError, AttributeError):  # none of this is public
                    from grain._src.python.ipc.shared_memory_array import SharedMemoryArray

                    if (pool := SharedMemoryArray._del_thread_pool) is not None:
                        pool.close()
                        pool.join()
                        SharedMemoryArray._disable_async_del()


def _explained(error: Exception) -> Exception:
    if "terminated unexpectedly" in str(error):
        return DataError(
            f"a process that decodes images has died ({' '.join(str(error).split())}): look for its message above, or for a "
            "lack of memory, and run the same command again, perhaps with fewer config.data.workers. A script of your own must "
            'start training below a line `if __name__ == "__main__":`, as each of these processes imports it, or set '
            "config.data.workers=0."
        )
    return error


def _init_worker(*_: Any) -> None:
    """Prepares a worker process: it ends with its parent, and no library in it takes a device."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    if jax := sys.modules.get("jax"):  # Grain imports it
        jax.config.update("jax_platforms", "cpu")
