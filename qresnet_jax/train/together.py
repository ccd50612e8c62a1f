"""Trains several runs at once: one or more on each device, those on the same device in one program, by `vmap`.

Each run is an ordinary `Training`, which asks for its steps and does all else itself. Only the steps are done together.
"""

import contextlib
import json
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.system.process import StandardOutput
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.batches import ResidentData, TrainData
from qresnet_jax.train.checkpoints.workdir import claim_workdir
from qresnet_jax.train.distillation import TaughtData
from qresnet_jax.train.interrupt import StopSignal
from qresnet_jax.train.loop import Request, Training
from qresnet_jax.train.metrics.progress import log_file, logging_to
from qresnet_jax.train.parallel import device_mesh, map_train_step, repeated
from qresnet_jax.train.step import TrainState, make_train_step

# Fields that are plain numbers in a step: runs that differ only in these and in the seed share a compiled program.
NUMBERS = (
    "optim.learning_rate",
    "optim.momentum",
    "optim.weight_decay",
    "optim.gradient_clip",
    "optim.hysteresis.threshold",
    "optim.clipping_level.learning_rate",
    "optim.clipping_level.l2",
    "optim.temperature.start",
    "optim.temperature.end",
)

Numbers = dict[str, jax.Array | np.float32]


class Inputs(NamedTuple):
    """What the steps of several runs on one device read; tuples with an entry for each run."""

    data: tuple[TrainData, ...]
    numbers: tuple[Numbers, ...]

    def specs(self, shared: Any, everywhere: Any) -> Any:
        """Returns that all of it is whole on the device, see `TrainData.specs`."""
        return everywhere


Many = Callable[[tuple[TrainState, ...], Inputs], tuple[TrainState, ...]]


class Run(NamedTuple):
    """A run to be trained."""

    config: ConfigDict
    workdir: str | os.PathLike[str]
    name: str  # begins its lines on the standard output


def numbers_of(config: ConfigDict) -> dict[str, float]:
    """Returns the fields of `NUMBERS` that are not 0; where one is 0, the program has no such term."""
    fields = configs.flatten(config)
    return {name: float(fields[name]) for name in NUMBERS if fields[name] != 0}


def program_key(config: ConfigDict) -> str:
    """Returns a text that is equal for two runs if they can share a compiled program."""
    fields = configs.flatten(config)
    left_out = ("seed", "init_from", *numbers_of(config))
    kept = {
        name: value
        for name, value in fields.items()
        if name not in left_out and not name.startswith(configs.WITHOUT_EFFECT)
    }
    return json.dumps(kept, sort_keys=True, default=str)


def make_many_steps(training: Training, length: int, in_float: bool = False) -> Many:
    """Builds `(states, inputs) -> states`, which trains several runs for `length` steps.

    States are a tuple with an entry for each run. A single run is computed without `vmap`, as it would be alone.

    Args:
      training: one of the runs; the others have the same `program_key`.
      length: the number of steps.
      in_float: whether they are steps of the float epochs.
    """
    # Not the training itself, whose data would be kept with the program.
    base, network, params = training.config, training.network(in_float), training.params
    total, per_epoch, shards = training.total_steps, training.steps_per_epoch, training.mesh.size

    def one(state: TrainState, data: TrainData, numbers: Numbers) -> TrainState:
        config = base.copy_and_resolve_references()
        with config.ignore_type():
            config.update_from_flattened_dict(numbers)
        tx = optim.optimizer(config.optim, params, total, per_epoch)
        step = make_train_step(
            network, tx, config, num_shards=shards, steps_per_epoch=per_epoch, total_steps=total
        )
        return repeated(step, length)(state, data)

    def many(states: tuple[TrainState, ...], inputs: Inputs) -> tuple[TrainState, ...]:
        data, numbers = inputs
        if len(states) == 1:
            return (one(states[0], data[0], numbers[0]),)
        stacked, axes = _stack_data(data)
        results = jax.vmap(one, in_axes=(0, axes, 0))(_stack(states), stacked, _stack(numbers))
        return tuple(_part(results, i) for i in range(len(states)))

    return many


def _stack(trees: Sequence[Any]) -> Any:
    return jax.tree.map(lambda *arrays: jnp.stack(arrays), *trees)


def _part(stacked: Any, i: int) -> Any:
    return jax.tree.map(lambda array: array[i], stacked)


def _stack_data(data: Sequence[TrainData]) -> tuple[TrainData, Any]:
    """Returns the data of all runs, and the axes for `vmap`; of sets that lie on the device, the images are shared."""
    if isinstance(data[0], TaughtData):  # runs that share a program have the same teacher
        stacked, inner = _stack_data([cast(TaughtData, one).data for one in data])
        return data[0]._replace(data=stacked), TaughtData(inner, cast(Any, None))
    resident = [one for one in data if isinstance(one, ResidentData)]
    if len(resident) < len(data):
        return _stack(data), 0
    order, key = _stack([(one.order, one.key) for one in resident])
    axes: tuple[Any, ...] = (None, None, 0, None, 0)
    return resident[0]._replace(order=order, key=key), ResidentData(*axes)


class _Active:
    """A run that is being trained: the steps that it asks for, and where its log goes.

    Raises:
      Exception: whatever the run raises before its first step; it is closed then.
    """

    def __init__(self, run: Run, device: jax.Device, stop: StopSignal) -> None:
        self.run, self.device = run, device
        self.metrics: dict[str, float] | None = None  # of a run that has ended
        with contextlib.ExitStack() as closing:
            directory = closing.enter_context(claim_workdir(run.workdir))
            self._handlers = (
                closing.enter_context(contextlib.closing(log_file(directory))),
                _console(run.name),
            )
            with logging_to(*self._handlers):
                self.training = Training(run.config, directory, device_mesh([device]))
                self._requests = closing.enter_context(contextlib.closing(self.training.requests(stop)))
                self.key = program_key(run.config)
                self.numbers: Numbers = {
                    name: np.float32(value) for name, value in numbers_of(run.config).items()
                }
                self._advance(lambda: next(self._requests))
            self.close = closing.pop_all().close

    def answer(self, state: TrainState) -> None:
        """Hands the run the state after the steps that it has asked for, and takes its next request."""
        with logging_to(*self._handlers):
            self._advance(lambda: self._requests.send(state))

    def _advance(self, advance: Callable[[], Request]) -> None:
        try:
            self.state, self.data, *kind = advance()
            self.kind: tuple[Any, ...] = tuple(kind)
        except StopIteration as done:
            self.metrics = done.value


def _console(name: str) -> logging.Handler:
    """Returns a handler for standard output that names the run in each line, and leaves out tables."""
    handler = StandardOutput()
    handler.setFormatter(logging.Formatter(f"{name.replace('%', '%%')}: %(message)s"))
    handler.addFilter(lambda record: "\n" not in record.getMessage())
    return handler


def train_together(
    runs: Sequence[Run],
    at_once: int,
    ended: Callable[[Run, dict[str, float] | Exception], None],
    *,
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Trains runs, `at_once` at a time, each on one device; each leaves the workdir that it would leave alone.

    Alone on its device, a run is to the bit what `train_and_evaluate` makes of it on that device. Of several on one
    device, which `vmap` computes, the sums have another order, so that they are other runs of the same kind, as with
    another number of devices. SIGTERM and Ctrl-C make all save and end.

    Args:
      runs: what to train; runs that are complete are only read.
      at_once: how many are trained at the same time.
      ended: is called when a run has ended, with its last metrics, or with the error that ended it. An error ends no
        other run, unless it comes from a program that computes both.
      devices: the devices to use; all by default.
    """
    waiting = deque(runs)
    with StopSignal() as stop, _Pool(ended, jax.devices() if devices is None else devices, stop) as pool:
        while (waiting and not stop) or pool.active:
            while waiting and len(pool.active) < at_once and not stop:
                pool.start(waiting.popleft())
            # All devices begin before the first answer is waited for.
            for one, state in [answer for group in pool.groups() for answer in pool.steps(group)]:
                pool.answer(one, state)


class _Pool(contextlib.ExitStack):
    """Holds the runs that are being trained, and the programs that compute their steps."""

    def __init__(
        self,
        ended: Callable[[Run, dict[str, float] | Exception], None],
        devices: Sequence[jax.Device],
        stop: StopSignal,
    ) -> None:
        super().__init__()
        self.active: list[_Active] = []
        self._ended, self._devices, self._stop = ended, devices, stop
        self._programs: dict[tuple[Any, ...], Callable[..., tuple[TrainState, ...]]] = {}
        self.callback(lambda: [one.close() for one in self.active])

    def start(self, run: Run) -> None:
        """Begins a run on the device that has the fewest."""
        load = Counter(one.device for one in self.active)
        try:
            one = _Active(run, min(self._devices, key=lambda device: load[device]), self._stop)
        except Exception as error:  # the other runs are worth hours, so they go on whatever it is
            self._ended(run, error)
        else:
            self.active.append(one)
            self._end_if_complete(one)

    def groups(self) -> list[list[_Active]]:
        """Returns the runs, those together whose next steps are one program."""
        groups: dict[tuple[Any, ...], list[_Active]] = {}
        for one in self.active:
            groups.setdefault((one.key, one.device, *one.kind), []).append(one)
        return list(groups.values())

    def steps(self, group: Sequence[_Active]) -> list[tuple[_Active, TrainState]]:
        """Begins to compute the steps that a group asks for, and returns the state of each of its runs after them."""
        first = group[0]
        place = (first.key, first.device, len(group), *first.kind)
        try:
            if place not in self._programs:
                many = make_many_steps(first.training, *first.kind)
                self._programs[place] = map_train_step(cast(Any, many), first.training.mesh, "shard_map", 1)
            inputs = Inputs(tuple(one.data for one in group), tuple(one.numbers for one in group))
            states = self._programs[place](tuple(one.state for one in group), inputs)
        except Exception as error:
            for one in group:
                self._end(one, error)
            return []
        return list(zip(group, states, strict=True))

    def answer(self, one: _Active, state: TrainState) -> None:
        """Hands a run the state that it has asked for; what it does with it, such as validation, is done on the way."""
        try:
            one.answer(state)
        except Exception as error:
            self._end(one, error)
        else:
            self._end_if_complete(one)

    def _end_if_complete(self, one: _Active) -> None:
        if one.metrics is not None:
            self._end(one, one.metrics)

    def _end(self, one: _Active, result: dict[str, float] | Exception) -> None:
        self.active.remove(one)
        one.close()
        self._ended(one.run, result)
