"""Several processes that train one network: they start, agree, wait for each other, and end together.

JAX connects them (`jax.distributed`): process 0 runs its coordination service, which has a store of keys and values and
named barriers, and notices when a process gives no more signs of life.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax._src import distributed as runtime  # JAX offers its store and its barriers nowhere else
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import ConfigError, UserError, shown
from qresnet_jax.system.aborts import explain_aborts
from qresnet_jax.system.placement import fetch, place

log = logging.getLogger("qresnet_jax")

_DAY = 24 * 60 * 60  # seconds
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
_runs = itertools.count()  # trainings and evaluations in this process, which the others count in the same way


class ProcessError(UserError):
    """Another process has ended, cannot be reached, or was not started in the same way."""


@dataclasses.dataclass(frozen=True)
class Processes:
    """Those that work together, seen from one of them; by default there is only this one.

    Args:
      index: of this process.
      count: the number of processes.
      run: says which of the trainings and evaluations of the processes this is.
    """

    index: int = 0
    count: int = 1
    run: int = 0

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes records and talks."""
        return self.index == 0

    def wait(self, what: str, seconds: int) -> None:
        """Waits until all processes have come to the barrier `what`.

        Raises:
          ProcessError: some have not come in time; the message names them.
        """
        if self.count == 1:
            return
        try:
            _client().wait_at_barrier(self._key(f"barrier/{what}"), 1000 * seconds)
        except jax.errors.JaxRuntimeError as error:
            late = _tasks(str(error), "timed out task names:")
            if not late:
                raise
            raise ProcessError(
                f"{_processes(late)} did not come to {what!r} within {seconds} s, where the others wait: see the log "
                "there, and start all processes again"
            ) from error

    def share(self, what: str, value: str) -> str:
        """Returns the value that process 0 gives for `what`; all processes call this."""
        if self.count == 1:
            return value
        key = self._key(f"shared/{what}")
        if self.is_first:
            _client().key_value_set(key, value)
            return value
        return _client().blocking_key_value_get(key, 1000 * _DAY)

    def agree(self, what: str, values: Mapping[str, Any], advice: str) -> None:
        """Refuses to go on if process 0 has other values than this process.

        Args:
          what: a name for the values, which is used only once in a run.
          values: they are compared as text.
          advice: how to mend it; the message ends with this.

        Raises:
          ProcessError: the message names the first value that differs.
        """
        own = {name: str(value) for name, value in values.items()}
        first: dict[str, str] = json.loads(self.share(what, json.dumps(own)))
        for name in {**first, **own}:
            if own.get(name) != first.get(name):
                raise ProcessError(
                    f"{name} is {shown(own.get(name))} in process {self.index}, but {shown(first.get(name))} in process "
                    f"0: {advice}"
                )
        self.wait(f"{what}, which agrees", _DAY)

    @contextlib.contextmanager
    def in_turn(self, what: str) -> Iterator[None]:
        """Lets process 0 run the context first and the others after it, as it may leave something that they need."""
        if not self.is_first:
            self.wait(what, _DAY)
        yield
        if self.is_first:
            self.wait(what, _DAY)

    def connect(self, mesh: Mesh) -> None:
        """Waits for all processes, and lets the devices of a mesh connect.

        Gloo gives up if one process begins to connect more than 30 seconds before another; later, when one of them
        compiles for longer than the others, it waits.
        """
        if self.count == 1:
            return
        self.wait("the connection", _DAY)
        fetch(place(np.zeros(mesh.size, np.float32), mesh, PartitionSpec(mesh.axis_names)))
        multihost_utils.sync_global_devices(self._key("connected"))

    def _key(self, name: str) -> str:
        return f"qresnet_jax/{self.run}/{name}"


ALONE = Processes()


def join(config: ConfigDict) -> Processes:
    """Joins the other processes that `config.distributed` speaks of, if any, unless this process has done so already.

    From then on, only process 0 logs more than errors.

    Until then JAX must not have been used for anything. All processes have to join with the same config, but for
    `process_id` and the fields that say where files lie.

    Raises:
      ConfigError: the coordinator's host is unknown or its port is in use, or there is nothing that `auto` detects.
      ProcessError: processes do not come, or they have other configs.
    """
    if not configs.has_processes(config):
        return Processes(jax.process_index(), jax.process_count(), next(_runs)) if _joined() else ALONE
    if not _joined():
        _initialize(config.distributed)
    group = Processes(runtime.global_state.process_id, runtime.global_state.num_processes, next(_runs))
    of_each = ("distributed.process_id", "data.data_dir", "data.raw_dir")
    fields = {f"config.{k}": v for k, v in configs.flatten(config).items() if k not in of_each}
    group.agree("config", fields, "start all processes with the same config")
    return group


def _initialize(given: ConfigDict) -> None:
    _check_address(given)
    options = {"coordinator_address": given.coordinator, "num_processes": given.num_processes}
    options["process_id"] = given.process_id
    # JAX says which processes are missing only if its service gives up before those that wait for it do.
    library: Any = runtime._jax
    usual = library.get_distributed_runtime_service
    library.get_distributed_runtime_service = functools.partial(
        usual, cluster_register_timeout=given.start_timeout
    )
    try:
        jax.distributed.initialize(
            **({} if given.auto else options),
            initialization_timeout=given.start_timeout + 10,
            heartbeat_timeout_seconds=given.timeout,
            shutdown_timeout_seconds=given.timeout,
        )
    except Exception as error:  # detecting a cluster raises exceptions of many types
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if not given.auto:
            raise ProcessError(
                f"config.distributed.coordinator={given.coordinator}: the processes cannot be connected ({reason})"
            ) from error
        if "should be defined" in reason or "must be defined" in reason:
            reason = "this is not a task of SLURM, Open MPI or Kubernetes, and no Cloud TPU"
        raise ConfigError(
            f"config.distributed.auto=True: nothing was detected ({reason}); give config.distributed.coordinator, "
            "num_processes and process_id instead"
        ) from error
    finally:
        library.get_distributed_runtime_service = usual
    if index := runtime.global_state.process_id:
        _log_errors_only(index)
    _watching.start()


def _log_errors_only(index: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"process {index}: %(message)s"))
    log.handlers[:], log.propagate = [handler], False
    log.setLevel(logging.ERROR)


def _check_address(given: ConfigDict) -> None:
    """Refuses an address that JAX would try to reach, or to serve, until its time is up."""
    if given.auto:
        return
    host, _, port = given.coordinator.rpartition(":")
    named = f"config.distributed.coordinator={given.coordinator}"
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"{named}: the host {host} is unknown ({getattr(error, 'strerror', error)}); give the name or the address of "
            "the machine of process 0"
        ) from error
    if given.process_id != 0:
        return
    try:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            trial.bind(("", int(port)))
    except OSError as error:
        raise ConfigError(
            f"{named}: the port {port} cannot be had on this machine ({error.strerror}), perhaps because another process "
            "0 runs here; give another port to all processes"
        ) from error


def _joined() -> bool:
    return jax.distributed.is_initialized()


def _client() -> Any:
    return runtime.global_state.client


# ---- The end ------------------------------------------------------------------------------------------------


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
        if _joined():
            group = Processes(runtime.global_state.process_id, runtime.global_state.num_processes, -1)
            group.wait("the end", _DAY)
            if group.is_first:
                _tell("")
            _watching.join()  # JAX's shutdown waits for what still reads from its store
            jax.distributed.shutdown()
    except BaseException as error:
        if not _joined():
            raise
        _end(error, config.distributed.timeout)


@contextlib.contextmanager
def telling_others(config: ConfigDict) -> Iterator[None]:
    """Ends the other processes, too, if an error ends the context in this one; each of them says which error."""
    try:
        yield
    except BaseException as error:
        if _joined():
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
        return getattr(_client(), method)(*args)
    return None


def _print(message: str, index: int) -> None:
    print(f"error: {f'process {index}: ' if index else ''}{message}", file=sys.stderr, flush=True)


def _watch() -> None:
    """Ends this process when another one tells that it has failed."""
    try:
        origin, message = json.loads(
            _client().blocking_key_value_get("qresnet_jax/failed", 1000 * 365 * _DAY)
        )
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
        time.sleep(
            _TOGETHER
        )  # so that the others learn from the coordinator why they end, and not that it is gone
    return f"error: {f'process {index}: ' if index else ''}{explain(text, given)}"


def explain(text: str, given: ConfigDict) -> str:
    """Returns in one line why JAX's distributed runtime has aborted a process.

    Args:
      text: what it has printed.
      given: `config.distributed`.
    """
    address = runtime.global_state.coordinator_address or given.coordinator
    again = "What was saved is kept: start all processes again to continue"
    if lost := _tasks(text, "stopped sending heartbeats):"):
        return f"{_processes(lost)} ended or cannot be reached: there was no sign of life for {given.timeout} s. {again}"
    if late := _tasks(text, "timed out task names:"):
        return f"{_processes(late)} did not come within {given.start_timeout} s: start all processes at the same time"
    if "incarnation" in text:
        return (
            "a process was started twice, or restarted while the others ran: give each process another "
            "config.distributed.process_id, and start all of them again"
        )
    if found := re.search(r"Unexpected task registered with task=(\d+)", text):
        return f"process 0 does not expect a process {found[1]}: give the same config.distributed.num_processes to all"
    if "RegisterTask" in text:
        return (
            f"process 0, the coordinator, cannot be reached at {address} within {given.start_timeout} s, or another "
            f"process has the process_id of this one: start process 0, and see its log"
        )
    if "leader task" in text or "Socket closed" in text:
        return f"process 0, the coordinator at {address}, ended or cannot be reached. {again}"
    reasons = [line.split("absl::Status: ")[-1] for line in text.splitlines() if re.match(r"F\d{4} ", line)]
    return f"JAX has ended this process ({reasons[-1] if reasons else text.strip()[-500:]}). {again}"


def _tasks(text: str, after: str) -> list[int]:
    """Returns the numbers of processes that a message of JAX lists, one in each line after the words `after`."""
    found = re.search(re.escape(after) + r"\s*((?:\S*?\d+\n)+)", f"{text}\n")
    return sorted({int(n) for n in re.findall(r"(\d+)\n", found[1])}) if found else []


def _processes(numbers: list[int]) -> str:
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"
