"""Ends all processes together: an error in one of them ends the others, each with one line."""

import contextlib
import functools
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import jax
from jax._src import distributed as runtime
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import UserError
from qresnet_jax.system.aborts import explain_aborts
from qresnet_jax.train.processes.group import DAY, ProcessError, Processes, client, joined
from qresnet_jax.train.processes.messages import explain

_TOGETHER = 1.0  # seconds in which the processes meet the same error, if they all do
_LEAVING = 5  # seconds for which a process that ends because of an error waits for the others
# What the errors say that a process gets because another one is gone.
_SIGNS_OF_LOSS = (
    "Gloo",
    "NCCL",
    "heartbeat",
    "Socket closed",
    "UNAVAILABLE",
    "oordination service",
    "arrier timed out",
)

_ending = threading.Lock()  # taken by the thread that ends the process, and never released


@contextlib.contextmanager
def ending_together(config: ConfigDict) -> Iterator[None]:
    """Runs a mode of the command line in all processes: an error in one of them ends all, each with one line.

    Process 0 is the one that talks; of the others, only errors are printed. When the context ends, all wait for
    process 0.
    """
    if not configs.has_processes(config):
        yield
        return
    explain_aborts(functools.partial(_explain_abort, given=config.distributed))
    try:
        yield
        if joined():
            group = Processes(runtime.global_state.process_id, runtime.global_state.num_processes, -1)
            group.wait("the end", DAY)
            if group.is_first:
                _tell("")
            _watching.join()  # JAX's shutdown waits for what still reads from its store
            jax.distributed.shutdown()
    except BaseException as error:
        if not joined():
            raise
        _end(error, config.distributed.timeout)


@contextlib.contextmanager
def telling_others(config: ConfigDict) -> Iterator[None]:
    """Ends the other processes, too, if an error ends the context in this one; each of them says which error."""
    try:
        yield
    except BaseException as error:
        if joined():
            _wait_for_verdict(error, config.distributed.timeout)
            _tell(_message(error))
        raise


def _end(error: BaseException, timeout: int) -> None:
    """Ends this process because of an error in it, and tells the others."""
    _wait_for_verdict(error, timeout)
    _ending.acquire()
    index = runtime.global_state.process_id
    message = _message(error)
    _tell(message)
    if not isinstance(error, UserError | KeyboardInterrupt):
        traceback.print_exception(error)
    if index == 0 or _said_by_first() != message:
        _print(message, index)
    if index == 0:
        _quietly("key_value_set", "qresnet_jax/said", message)
    _leave(2 if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1)


def _wait_for_verdict(error: BaseException, timeout: int) -> None:
    """Waits, if an error may come from the loss of another process, until JAX has found out which one it is.

    JAX then ends this process.
    """
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(str(cause))
        cause = cause.__cause__ or cause.__context__
    if any(sign in text for sign in _SIGNS_OF_LOSS for text in texts) and not isinstance(error, ProcessError):
        _sleep_once(timeout + 5)


@functools.cache
def _sleep_once(seconds: int) -> None:
    time.sleep(seconds)


def _message(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    return str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}".splitlines()[0]


def _tell(message: str) -> None:
    _quietly("key_value_set", "qresnet_jax/failed", json.dumps([runtime.global_state.process_id, message]))


def _said_by_first() -> str | None:
    return _quietly("blocking_key_value_get", "qresnet_jax/said", 3000)


def _leave(status: int) -> None:
    """Ends this process when the others end too: without process 0, JAX would abort them before they can speak."""
    sys.stdout.flush()
    _quietly("wait_at_barrier", "qresnet_jax/left", 1000 * _LEAVING)
    os._exit(status)


def _quietly(method: str, *args: Any) -> Any:
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        return getattr(client(), method)(*args)
    return None


def _print(message: str, index: int) -> None:
    print(f"error: {f'process {index}: ' if index else ''}{message}", file=sys.stderr, flush=True)


def watch_others() -> None:
    """Starts a thread that ends this process when another one tells that it has failed."""
    _watching.start()


def _watch() -> None:
    try:
        origin, message = json.loads(client().blocking_key_value_get("qresnet_jax/failed", 1000 * 365 * DAY))
    except jax.errors.JaxRuntimeError:
        return  # JAX is about to abort this process
    index = runtime.global_state.process_id
    if origin == index or not message:  # all is done
        return
    time.sleep(_TOGETHER)  # perhaps this process is about to meet the same error
    _ending.acquire()
    message = f"process {origin} has ended: {message}"
    _print(message, index)
    if index == 0:
        _quietly("key_value_set", "qresnet_jax/said", message)
    _leave(2)


_watching = threading.Thread(target=_watch, daemon=True)


def _explain_abort(text: str, given: ConfigDict) -> str:
    """Returns what to print when JAX has aborted this process; `text` is what it has printed."""
    if not _ending.acquire(blocking=False):
        return ""  # it was said what has happened
    index = runtime.global_state.process_id
    if index == 0:
        # The others learn from the coordinator why they end, and not that it is gone.
        time.sleep(_TOGETHER)
    address = runtime.global_state.coordinator_address or given.coordinator
    return f"error: {f'process {index}: ' if index else ''}{explain(text, given, address)}"
