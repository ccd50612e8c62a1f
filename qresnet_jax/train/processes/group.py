"""The processes that train one network: they agree on values, and wait for each other."""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax._src import distributed as runtime  # JAX offers its store and its barriers nowhere else
from jax.experimental import multihost_utils
from jax.sharding import Mesh, PartitionSpec

from qresnet_jax.errors import UserError, shown
from qresnet_jax.system.placement import fetch, place
from qresnet_jax.train.processes import messages

DAY = 24 * 60 * 60  # seconds


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
            client().wait_at_barrier(self._key(f"barrier/{what}"), 1000 * seconds)
        except jax.errors.JaxRuntimeError as error:
            late = messages.late(str(error))
            if not late:
                raise
            raise ProcessError(
                f"{messages.named(late)} did not come to {what!r} within {seconds} s, where the others wait: see the log "
                "there, and start all processes again"
            ) from error

    def share(self, what: str, value: str) -> str:
        """Returns the value that process 0 gives for `what`; all processes call this."""
        if self.count == 1:
            return value
        key = self._key(f"shared/{what}")
        if self.is_first:
            client().key_value_set(key, value)
            return value
        return client().blocking_key_value_get(key, 1000 * DAY)

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
        self.wait(f"{what}, which agrees", DAY)

    @contextlib.contextmanager
    def in_turn(self, what: str) -> Iterator[None]:
        """Lets process 0 run the context first and the others after it, as it may leave something that they need."""
        if not self.is_first:
            self.wait(what, DAY)
        yield
        if self.is_first:
            self.wait(what, DAY)

    def connect(self, mesh: Mesh) -> None:
        """Waits for all processes, and lets the devices of a mesh connect.

        Gloo gives up if one process begins to connect more than 30 seconds before another; later, when one of them
        compiles for longer than the others, it waits.
        """
        if self.count == 1:
            return
        self.wait("the connection", DAY)
        fetch(place(np.zeros(mesh.size, np.float32), mesh, PartitionSpec(mesh.axis_names)))
        multihost_utils.sync_global_devices(self._key("connected"))

    def _key(self, name: str) -> str:
        return f"qresnet_jax/{self.run}/{name}"


ALONE = Processes()


def joined() -> bool:
    """Returns whether JAX has connected this process with others."""
    return jax.distributed.is_initialized()


def client() -> Any:
    """Returns JAX's client of the coordination service: its store of keys and values, and its barriers."""
    return runtime.global_state.client
