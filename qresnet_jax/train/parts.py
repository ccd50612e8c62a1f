"""The parts of a run that do not change while it trains: its data, networks, optimizer and compiled programs."""

import functools
import logging
import pathlib
from collections.abc import Callable

import jax
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.data import ARRAYS, FOLDER, ImageDataset, StreamedDataset, load_dataset, take_dataset
from qresnet_jax.data.order import steps_per_epoch
from qresnet_jax.errors import CheckpointError
from qresnet_jax.models.networks import create_model
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.batches import TrainData
from qresnet_jax.train.checkpoints.checkpoint import to_json
from qresnet_jax.train.checkpoints.resume import check_other_runs, other_runs
from qresnet_jax.train.distillation import TaughtData, Teacher
from qresnet_jax.train.evaluator import Evaluator, check_data_of_run, restore_run
from qresnet_jax.train.feed import Feed, ResidentFeed, StreamingFeed, resident_bytes
from qresnet_jax.train.float_epochs import FloatTwin
from qresnet_jax.train.metrics.description import costs_of_layers, identity_of
from qresnet_jax.train.metrics.diagnostics import Diagnose, make_diagnose
from qresnet_jax.train.network import Network
from qresnet_jax.train.parallel import map_train_step, replicate
from qresnet_jax.train.processes import ALONE, Processes
from qresnet_jax.train.step import AXIS, make_train_step

log = logging.getLogger("qresnet_jax")


class Parts:
    """Holds the parts of a run that do not change while it trains."""

    def __init__(
        self,
        config: ConfigDict,
        workdir: pathlib.Path,
        mesh: Mesh,
        arrays: ImageDataset | None = None,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.workdir, self.mesh, self.processes = config, workdir, mesh, processes
        # First what takes no time to refuse.
        check_other_runs(other_runs(config, workdir))
        model = create_model(config.model, rngs=nnx.Rngs(config.seed), dtype=config.dtype)
        self.dataset: ImageDataset | StreamedDataset
        with processes.in_turn("the data set"):
            if arrays is None:
                self.dataset = load_dataset(config.data, resident_bytes(mesh))
            else:
                self.dataset = take_dataset(arrays, config.data)
        configs.validate_dataset(config, self.dataset)
        if isinstance(self.dataset, StreamedDataset):
            configs.validate_dispatch(config)
        self.steps_per_epoch = steps_per_epoch(self.dataset.train.num_images, config.batch_size)
        self.total_steps = self.steps_per_epoch * config.num_epochs

        in_evaluation = Network(
            nnx.graphdef(
                nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
            )
        )
        self.float_steps = self.steps_per_epoch * config.optim.float_epochs
        self.twin = FloatTwin(config, model) if self.float_steps else None
        self.evaluate, self.diagnose = self._measures(in_evaluation)
        if self.twin:
            self._evaluate_twin, self._diagnose_twin = self._measures(self.twin.in_evaluation)
        if config.model.sync_bn:
            model.set_attributes(BatchNorm, axis_name=AXIS, raise_if_not_found=False)
        self.graphdef, self.params, *others = nnx.split(model, nnx.Param, ...)
        (self.model_state,) = others
        self.tx = optim.optimizer(config.optim, self.params, self.total_steps, self.steps_per_epoch)
        self.course = jax.jit(optim.schedule(config.optim, self.total_steps, self.steps_per_epoch))
        self.meta = {
            "config": to_json(config.to_dict()),
            "class_names": list(self.dataset.class_names),
            "mean": self.dataset.mean.tolist(),
            "image_shape": list(self.dataset.image_shape),
        }
        if config.data.name in (ARRAYS, FOLDER):  # the name does not say which images they are
            is_streamed = isinstance(self.dataset, StreamedDataset)
            self.meta["checksum_of_files" if is_streamed else "checksum"] = self.dataset.checksum()
        self.layers = costs_of_layers(model, self.dataset)
        identity = identity_of(self.dataset, self.meta, with_checksum=processes.count > 1)
        processes.agree("data", identity, "give all processes the same data set")
        self.teacher = self._teacher()
        processes.connect(mesh)

    def _teacher(self) -> Teacher | None:
        """Returns the network that teaches this one, if there is one, and takes down which it is."""
        if not (workdir := self.config.optim.distillation.teacher):
            return None
        try:
            run = restore_run(None, workdir)
        except CheckpointError as error:
            raise CheckpointError(f"config.optim.distillation.teacher={workdir!r}: {error}") from error
        check_data_of_run(run, self.dataset, f"the teacher {workdir}")
        teacher = run.teacher()
        self.meta["teacher"] = checksum = teacher.checksum()
        advice = "give all processes the same config.optim.distillation.teacher"
        self.processes.agree("teacher", {"the checksum of the teacher": checksum}, advice)
        log.info("the teacher is the network in %s at step %d", workdir, run.step)
        return replicate(teacher, self.mesh)

    def _measures(self, network: Network) -> tuple[Evaluator, Diagnose]:
        """Returns what measures a network while it trains, from the training state."""
        loop = self.config.optim.hysteresis
        diagnose = make_diagnose(network, loop.threshold, loop.relative)
        height, width, _ = self.dataset.image_shape
        return Evaluator(network, self.dataset.mean, self.mesh, (height, width)), diagnose

    @property
    def most_steps(self) -> int:
        """Returns how many steps training does in a call of the compiled program, at most."""
        on_cpu = self.mesh.devices.flat[0].platform == "cpu"
        if isinstance(self.dataset, StreamedDataset):  # its batches come one by one
            return 1
        return self.config.steps_per_dispatch or (1 if on_cpu else self.config.log_every_steps)

    def network(self, in_float: bool = False) -> Network:
        """Returns the network that computes the loss, in the float epochs or after them."""
        return self.twin.in_training if self.twin and in_float else Network(self.graphdef)

    def programs(self) -> Callable[..., jax.stages.Wrapped]:
        """Returns `(length, in_float=False) -> program`, where a program trains that many steps; each is made once."""

        @functools.cache  # one program for each length; the ends of intervals and epochs make two or three lengths
        def program(length: int, in_float: bool = False) -> jax.stages.Wrapped:
            step = make_train_step(
                self.network(in_float),
                self.tx,
                self.config,
                num_shards=self.mesh.size,
                steps_per_epoch=self.steps_per_epoch,
                total_steps=self.total_steps,
            )
            return map_train_step(step, self.mesh, self.config.parallel, length)

        return program

    def feed(self) -> Feed:
        """Returns what hands each step the images that it reads."""
        if isinstance(self.dataset, StreamedDataset):
            return StreamingFeed(self.dataset, self.config, self.mesh, self.total_steps)
        return ResidentFeed(self.dataset, self.config, self.mesh)

    def data(self, feed: Feed, step: int) -> TrainData:
        """Returns what a step and those in the same call read: the images, and the teacher's variables if there is one."""
        return feed(step) if self.teacher is None else TaughtData(feed(step), self.teacher)
