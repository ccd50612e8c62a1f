"""Trains a network from a config into a workdir, and measures it on the test set: `train_and_evaluate`."""

import contextlib
import json
import logging
import os
import time
from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.data import ARRAYS, ImageDataset
from qresnet_jax.errors import DivergedError
from qresnet_jax.system.files import write_all
from qresnet_jax.train.batches import TrainData
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints
from qresnet_jax.train.checkpoints.resume import continue_run, warm_start
from qresnet_jax.train.checkpoints.workdir import claim_workdir
from qresnet_jax.train.feed import Feed
from qresnet_jax.train.interrupt import StopSignal
from qresnet_jax.train.metrics.description import log_description
from qresnet_jax.train.metrics.diagnostics import named
from qresnet_jax.train.metrics.finite import check_finite
from qresnet_jax.train.metrics.progress import Progress, log_to
from qresnet_jax.train.metrics.records import IN_FLOAT, Metrics, MetricsOfOthers
from qresnet_jax.train.parallel import device_mesh, replicate
from qresnet_jax.train.parts import Parts
from qresnet_jax.train.processes import join, telling_others
from qresnet_jax.train.step import (
    METRICS,
    TrainState,
    init_state,
)

log = logging.getLogger("qresnet_jax")

_Tree = TypeVar("_Tree")
_Result = TypeVar("_Result")


class Request(NamedTuple):
    """What a run asks for next."""

    state: TrainState  # its buffers may be donated
    data: TrainData  # what the steps read
    length: int  # the number of steps
    in_float: bool  # whether they are steps of the float epochs


Requests = Generator[Request, TrainState, _Result]


def train_and_evaluate(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    dataset: ImageDataset | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """Trains the run in `workdir`, or continues it, and measures the network on the test split at the end.

    After an interruption, the same call continues the run and gives the result, bit for bit, of a run that was not
    interrupted. SIGTERM and Ctrl-C make it save and return early.

    Args:
      config: see `qresnet_jax.config.default_config`.
      workdir: the directory of the run; it is made if necessary.
      dataset: arrays to train on instead of the set that `config.data.name` names; the run's config then says "arrays".
      devices: the devices to use; all by default.

    Returns:
      The last metrics. When training is complete, they include `test_accuracy`, between 0 and 1, and `test_loss`, in
      nats, of the checkpoint with the best validation accuracy, or of the last one if nothing is held out.

    Raises:
      UserError: a config, data set, checkpoint or workdir cannot be used, or the loss is not finite.
    """
    if dataset is not None:
        config = ConfigDict(config).copy_and_resolve_references()  # also of a frozen one
        config.data.name = ARRAYS
    configs.validate(config)
    with contextlib.ExitStack() as stack:
        processes = join(config)
        stack.enter_context(telling_others(config))
        mesh = device_mesh(devices)
        configs.validate_devices(config, mesh.size, processes.count)
        directory = stack.enter_context(claim_workdir(workdir, processes))
        stack.enter_context(log_to(directory, processes))
        stop = stack.enter_context(StopSignal(shared=processes.count > 1))
        with stop.at_once():  # it may prepare a large data set
            run = Training(config, directory, mesh, dataset, processes)
        if stop:
            log.info("stopped by %s before the first step", stop)
            return {}
        return run.train(stop)


class Training(Parts):
    """Trains a run: the loop over its epochs, and what is measured and saved on the way."""

    def train(self, stop: StopSignal) -> dict[str, float]:
        """Trains from the latest checkpoint to the end, or until `stop` is set; returns the last metrics."""
        program = self.programs()
        with contextlib.closing(self.requests(stop)) as requests:
            try:
                state, data, *kind = next(requests)
                while True:
                    state, data, *kind = requests.send(program(*kind)(state, data))
            except StopIteration as done:
                metrics: dict[str, float] = done.value
                return metrics

    def requests(self, stop: StopSignal) -> Requests[dict[str, float]]:
        """Does all of `train` but the steps: yields what is to be trained, and takes the state after it."""
        config = self.config
        with contextlib.ExitStack() as closing:
            checkpoints = closing.enter_context(Checkpoints(self.workdir))
            state = self.start(checkpoints)
            log_description(config, self.dataset, self.layers, self.mesh, self.processes)
            self._write_config(int(state.step))
            step = int(state.step)
            metrics = (Metrics if self.processes.is_first else MetricsOfOthers)(self.workdir, step)
            closing.callback(metrics.close)
            progress = Progress(self.total_steps, step, self.steps_per_epoch, config.num_epochs)
            closing.callback(progress.close)
            if step < self.total_steps:
                state = yield from self._epochs(state, checkpoints, metrics, progress, stop)
            if stop and int(state.step) < self.total_steps:
                log.info(
                    "stopped by %s at step %d; everything is saved, and the same command continues the run",
                    stop,
                    state.step,
                )
                return metrics.at(int(state.step))
            progress.close()
            return self.finish(state, checkpoints, metrics)

    def start(self, checkpoints: Checkpoints) -> TrainState:
        """Returns the first state: from this workdir, or else from `config.init_from`, or else from scratch.

        Raises:
          CheckpointError: the checkpoint is damaged, or belongs to another network or to a run with other settings.
        """
        is_new = checkpoints.latest_step is None
        params, model_state = self.params, self.model_state
        if is_new and self.config.init_from:
            params, model_state, report = warm_start(self.config.init_from, params, model_state, self.meta)
            log.info(report)
        state: TrainState = replicate(init_state(params, model_state, self.tx), self.mesh)
        return state if is_new else continue_run(checkpoints, state, self.meta, self.total_steps)

    def _write_config(self, step: int) -> None:
        """Writes the config, unless the run is complete: it was then trained with the config that is there."""
        path = self.workdir / "config.json"
        if self.processes.is_first and (step < self.total_steps or not path.exists()):
            write_all({path: (json.dumps(self.meta["config"], indent=2) + "\n").encode()})

    def _epochs(
        self,
        state: TrainState,
        checkpoints: Checkpoints,
        metrics: Metrics,
        progress: Progress,
        stop: StopSignal,
    ) -> Requests[TrainState]:
        config, n, feed = self.config, self.steps_per_epoch, self.feed()
        step, best = int(state.step), checkpoints.best_accuracy
        # The best state since the last checkpoint; it is written together with the next one.
        waiting: list[tuple[int, TrainState, float | None]] = []

        def save(*states: tuple[int, TrainState, float | None]) -> None:
            for saved_step, saved, accuracy in states:
                # With the next image of the run, counted over all epochs: it continues there, however it is read.
                meta = {**self.meta, "next_image": saved_step * config.batch_size}
                if saved_step <= self.float_steps:
                    meta["in_float_epochs"] = True
                checkpoints.save(saved_step, saved, meta, accuracy)

        try:
            while step < self.total_steps:
                epoch = step // n
                if self.twin and step == self.float_steps:
                    state = self.twin.quantize(state, feed.sample)
                    log.info("weights and activations are quantized from here on, step %d", step)
                state, step = yield from self._epoch(state, step, feed, metrics, progress, stop)
                ended = step == (epoch + 1) * n
                accuracy = self._validate(state, step, metrics, epoch) if ended else None
                stopping = bool(stop)  # read once, as it may be set at any moment
                is_last = step == self.total_steps
                due = ended and ((epoch + 1) % config.checkpoint_every_epochs == 0 or is_last)
                is_best = accuracy is not None and (
                    best is None or accuracy >= best
                )  # the later one of equals
                best = accuracy if is_best else best
                if stopping or due or is_best:
                    check_finite(state)
                    waiting = [] if is_best else waiting
                if stopping or due:
                    save(*waiting, (step, state, accuracy))
                    waiting = []
                elif is_best:
                    waiting = [(step, _copy(state), accuracy)]
                if stopping:
                    break
        except DivergedError as error:
            save(*waiting)
            checkpoints.wait()
            raise DivergedError(f"{error}. {_what_is_kept(checkpoints.latest_step)}") from error
        finally:
            feed.close()
        checkpoints.wait()
        return state

    def _epoch(
        self,
        state: TrainState,
        step: int,
        feed: Feed,
        metrics: Metrics,
        progress: Progress,
        stop: StopSignal,
    ) -> Requests[tuple[TrainState, int]]:
        """Trains to the end of the epoch of `step`, or until `stop` is set; logs the metrics of each interval.

        Returns:
          `(state, step)` at that point.
        """
        end = step - step % self.steps_per_epoch + self.steps_per_epoch
        clock, timed_from = time.monotonic(), step
        while step < end:
            interval_end = self._interval_end(step)
            # A run stops only between requests, so a continued run divides its epochs as an uninterrupted one does.
            length = min(self.most_steps, interval_end - step)
            state = yield Request(state, self.data(feed, step), length, step < self.float_steps)
            step += length
            jax.block_until_ready(state.step)
            progress.advance(step)
            if step == interval_end:
                values = self._interval_metrics(state, feed.sample, step)
                seconds = time.monotonic() - clock
                values["images_per_second"] = (step - timed_from) * self.config.batch_size / seconds
                is_validated_next = step == end and self.dataset.validation is not None
                metrics.write(step, values, more_follows=is_validated_next)
                progress.report(step, values)
                state = state._replace(sums=jax.tree.map(jnp.zeros_like, state.sums))
                clock, timed_from = time.monotonic(), step
            if stop.poll():
                break
        return state, step

    def _interval_end(self, step: int) -> int:
        """Returns where the interval of `step` ends: every `log_every_steps` steps of an epoch, and at its end."""
        every, n = self.config.log_every_steps, self.steps_per_epoch
        epoch, in_epoch = divmod(step, n)
        return epoch * n + min(in_epoch - in_epoch % every + every, n)

    def _interval_metrics(self, state: TrainState, sample: jax.Array, step: int) -> dict[str, float]:
        check_finite(state)
        diagnose = self._diagnose_twin if step <= self.float_steps else self.diagnose
        now = diagnose(state.params, state.model_state, state.opt_state, sample)
        sums, now = jax.device_get((state.sums, now))
        steps = sums["images"] / self.config.batch_size
        layerwise = named({name: x for name, x in sums.items() if name not in METRICS}, self.params)
        return {
            "train_loss": float(sums["loss"] / sums["images"]),
            "train_accuracy": float(sums["correct"] / sums["images"]),
            "learning_rate": float(self.config.optim.learning_rate * self.course(step - 1)),
            **{name: float(x / steps) for name, x in layerwise.items()},
            **{name: float(x) for name, x in now.items()},
            **self._phase(step),
        }

    def _phase(self, step: int) -> dict[str, float]:
        """Returns the metric that marks a step of the float epochs."""
        return {IN_FLOAT: 1.0} if step <= self.float_steps else {}

    def _validate(self, state: TrainState, step: int, metrics: Metrics, epoch: int) -> float | None:
        """Logs loss and accuracy on the validation split; returns the accuracy, or None if it is that of the float twin."""
        if self.dataset.validation is None:
            return None
        in_float = step <= self.float_steps
        evaluate = self._evaluate_twin if in_float else self.evaluate
        result = evaluate(state.params, state.model_state, self.dataset.validation)
        metrics.write(step, {f"eval_{name}": value for name, value in result.items()} | self._phase(step))
        log.info(
            "epoch %d/%d  validation loss %.4f  accuracy %.2f %%",
            epoch + 1,
            self.config.num_epochs,
            result["loss"],
            100 * result["accuracy"],
        )
        return None if in_float else result["accuracy"]

    def finish(self, state: TrainState, checkpoints: Checkpoints, metrics: Metrics) -> dict[str, float]:
        """Measures the model that validation chose on the test set, and returns the last metrics.

        It is measured only once; after that the result is read from the records.
        """
        step = int(state.step)
        done = metrics.at(step)
        if "test_accuracy" not in done:
            chosen = checkpoints.best_step if self.dataset.validation else checkpoints.latest_step
            assert chosen is not None  # training ends with a checkpoint
            if chosen != step:
                state = checkpoints.restore(chosen, state)
            result = self.evaluate(state.params, state.model_state, self.dataset.test)
            metrics.write(
                step,
                {"test_loss": result["loss"], "test_accuracy": result["accuracy"], "test_of_step": chosen},
            )
            done = metrics.at(step)
        log.info(
            "done: test accuracy %.2f %%, loss %.4f, of the checkpoint at step %d, in %s",
            100 * done["test_accuracy"],
            done["test_loss"],
            done["test_of_step"],
            self.workdir,
        )
        return done


def _what_is_kept(step: int | None) -> str:
    if step is None:
        return "No checkpoint was saved before that, so the run begins anew"
    return f"The last good checkpoint is kept, of step {step}, and the same command continues from it"


@jax.jit
def _copy(tree: _Tree) -> _Tree:
    """Returns a copy, which stays valid when the next step takes over the buffers of the state itself."""
    return jax.tree.map(jnp.copy, tree)
