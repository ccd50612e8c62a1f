"""Joins the processes that a config speaks of."""

import functools
import itertools
import logging
import socket
import sys
from typing import Any

import jax
from jax._src import distributed as runtime
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import ConfigError
from qresnet_jax.train.processes.ending import watch_others
from qresnet_jax.train.processes.group import ALONE, ProcessError, Processes, joined

log = logging.getLogger("qresnet_jax")

_runs = itertools.count()  # trainings and evaluations in this process, which the others count in the same way


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
        return Processes(jax.process_index(), jax.process_count(), next(_runs)) if joined() else ALONE
    if not joined():
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
    watch_others()


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
