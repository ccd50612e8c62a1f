"""Measures loss and accuracy over a whole split, every image once; and restores and tests a run that was trained."""

import contextlib
import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.data import ImageDataset, Split, StreamedDataset, StreamedSplit, check_dataset, load_dataset
from qresnet_jax.errors import DataError, ExportError
from qresnet_jax.models.networks import create_model
from qresnet_jax.nn.recording import Step
from qresnet_jax.ship.fold import fold, fold_traced, why_float, without_layers
from qresnet_jax.ship.jax.engine import in_batches, on_mesh
from qresnet_jax.ship.load import load_packed
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.system.placement import place
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints
from qresnet_jax.train.distillation import Teacher
from qresnet_jax.train.feed import resident_bytes
from qresnet_jax.train.float_epochs import FloatTwin, float_model
from qresnet_jax.train.network import Network, merge
from qresnet_jax.train.parallel import device_mesh, is_local, map_eval_step, replicate
from qresnet_jax.train.processes import join
from qresnet_jax.train.step import TrainState, init_state, make_eval_step

log = logging.getLogger("qresnet_jax")

FLOAT_BATCH = 512  # images in a batch of a float network, over all devices


class Evaluator:
    """Evaluates networks of one architecture on whole splits; each of them is compiled only once.

    What is evaluated is what ships: the network is folded, and the integers compute the logits. Only a network
    without an integer form is evaluated in float.

    Args:
      network: a network of this architecture, in evaluation mode.
      mean: the pixel means, float `[C]`, in units of pixel values.
      mesh: the mesh of the devices that share the work.
      image_shape: `(height, width)` of the images; None if the network takes any.
    """

    def __init__(
        self, network: Network, mean: np.ndarray, mesh: Mesh, image_shape: tuple[int, int] | None = None
    ) -> None:
        self._network, self._mean, self._mesh = network, mean, mesh
        self._image_shape = image_shape
        self._steps: Sequence[Step] | None = None  # what the network computes, once it has been folded
        self._float_step = map_eval_step(make_eval_step(network), mesh)

    def __call__(
        self, params: nnx.State, model_state: nnx.State, split: Split | StreamedSplit
    ) -> dict[str, float]:
        """Returns the mean loss in nats and the accuracy, 0 to 1, over all images of a split.

        Loss and accuracy are computed from the logits in float64. For an integer network they are therefore the
        same on all devices, and for any number of them.

        Args:
          params, model_state: the parameters and the other variables of a training state.
          split: the images and labels, in memory or on the disk.

        Returns:
          `{"loss": ..., "accuracy": ...}`.

        Raises:
          ExportError: the network should have an integer form, but has parameters that are not finite.
        """
        model = merge(self._network.graphdef, *self._network.variables(params, model_state))
        if why_float(model) is not None:
            logits_of: Callable = functools.partial(self._float_logits, params, model_state)
            unit = 1.0
        else:
            folded = fold_traced(
                model, mean=self._mean, class_names=None, image_shape=self._image_shape, known=self._steps
            )
            self._steps = without_layers(folded.steps)
            integers = folded.network
            logits_of, unit = on_mesh(integers, self._mesh), integers.logit_scale
        sums = np.zeros(2)
        with contextlib.closing(split.parts()) as parts:
            for images, labels in parts:
                sums += measure(logits_of(images) * unit, labels)
        loss, accuracy = sums / split.num_images
        return {"loss": float(loss), "accuracy": float(accuracy)}

    def _float_logits(self, params: nnx.State, model_state: nnx.State, images: np.ndarray) -> np.ndarray:
        mean = replicate(np.asarray(self._mean, np.float32), self._mesh)
        shared = PartitionSpec(self._mesh.axis_names)
        return in_batches(
            lambda pixels: self._float_step(params, model_state, place(pixels, self._mesh, shared), mean),
            images,
            -(-FLOAT_BATCH // self._mesh.size) * self._mesh.size,
        )


def measure(logits: np.ndarray, labels: np.ndarray) -> tuple[float, int]:
    """Returns the sum of the cross-entropy losses in nats, and the number of images whose class is right.

    Args:
      logits: float `[N, classes]`; of equal ones, the first is the predicted class.
      labels: the right classes, integers `[N]`.
    """
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(len(labels)), labels]
    return losses.sum(), np.sum(logits.argmax(-1) == labels)


class TrainedRun(NamedTuple):
    """A run's network and training state, read from a checkpoint in its workdir."""

    graphdef: nnx.GraphDef[nnx.Module]  # of the model in evaluation mode
    state: TrainState
    meta: dict[str, Any]  # saved with the checkpoint: config, class_names, mean, image_shape
    step: int  # of the checkpoint
    # The run's own, but for the fields of `config.OF_THE_CALL`; in the float epochs, its network is the float twin.
    config: ConfigDict

    def model(self) -> nnx.Module:
        """Returns the trained network in evaluation mode."""
        return nnx.merge(self.graphdef, self.state.params, self.state.model_state)

    def teacher(self) -> Teacher:
        """Returns the trained network as the teacher of another one."""
        mean = jnp.asarray(self.meta["mean"], jnp.float32)
        return Teacher(self.graphdef, self.state.params, self.state.model_state, mean)


def restore_run(
    config: ConfigDict | None, workdir: str | os.PathLike[str], *, mesh: Mesh | None = None
) -> TrainedRun:
    """Reads the checkpoint with the best validation accuracy of a run, or its latest one if nothing was held out.

    The network and the optimizer are those that the run was trained with, whatever `config` says. With other activation
    bits, for example, the checkpoint's arrays would still fit, but the network would be another one. Fields that differ
    are logged.

    Args:
      config: the config; only the fields of `config.OF_THE_CALL` count: where the data lie, and what to predict, export
        and time. With None, those of the run count too.
      workdir: the directory of the run; it is only read.
      mesh: the mesh of the devices that get the state; all devices of this process by default.

    Raises:
      CheckpointError: there is no checkpoint, or it is damaged.
    """
    with Checkpoints(workdir, read_only=True) as checkpoints:
        step = checkpoints.best_step
        assert step is not None  # a directory without checkpoints has been refused
        meta = checkpoints.meta(step)
        config = configs.from_json(meta["config"]) if config is None else _as_trained(config, meta["config"])
        model = create_model(config.model, rngs=nnx.Rngs(config.seed), dtype=config.dtype)
        model.set_attributes(use_running_average=True, deterministic=True, raise_if_not_found=False)
        graphdef, params, *others = nnx.split(model, nnx.Param, ...)
        (model_state,) = others
        # The structure of the optimizer's state does not depend on the schedule.
        tx = optim.optimizer(config.optim, params, 1, 1)
        # Other processes, if there are any, read the checkpoint for themselves.
        own = device_mesh(jax.local_devices()) if mesh is None or not is_local(mesh) else mesh
        like = jax.eval_shape(lambda p, rest: init_state(p, rest, tx), params, model_state)
        everywhere = NamedSharding(own, PartitionSpec())
        state = checkpoints.restore(
            step,
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), like),
        )
        if mesh is not None and mesh is not own:
            state = replicate(state, mesh)
        if meta.get("in_float_epochs"):
            twin = FloatTwin(config, model)
            graphdef = twin.in_evaluation.graphdef
            params, model_state = twin.variables(state.params, state.model_state)
            state = state._replace(params=params, model_state=model_state)
            config.model = float_model(config.model)
            log.info(
                "step %d is in the float epochs of the run: this is the float network; to quantize it, continue the training",
                step,
            )
        return TrainedRun(graphdef, state, meta, step, config)


def _as_trained(config: ConfigDict, saved: dict[str, Any]) -> ConfigDict:
    """Returns the run's config, with the fields of this call replaced by the given ones."""
    trained, given = configs.from_json(saved), configs.flatten(config)
    now = {name: value for name, value in given.items() if name.startswith(configs.OF_THE_CALL)}
    with trained.ignore_type():
        trained.update_from_flattened_dict(now)
    fields = configs.flatten(trained)
    differing = [f"{name}={value}" for name, value in fields.items() if given.get(name) != value]
    if differing:
        log.info("using the run's own values, not those of the config: %s", ", ".join(differing))
    return trained


def fold_run(run: TrainedRun) -> IntegerNetwork:
    """Returns the integer network of a run (see `qresnet_jax.fold`).

    Raises:
      ExportError: the network has no integer form, or does not have it yet.
    """
    if run.meta.get("in_float_epochs"):
        raise ExportError(
            f"the checkpoint at step {run.step} is in the float epochs of its run "
            f"(config.optim.float_epochs={run.config.optim.float_epochs}): continue the training, which quantizes the network"
        )
    names, shape = run.meta["class_names"], tuple(run.meta["image_shape"][:2])
    return fold(run.model(), mean=np.asarray(run.meta["mean"]), class_names=names, image_shape=shape)


def evaluate_checkpoint(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    dataset: ImageDataset | None = None,
    devices: Sequence[jax.Device] | None = None,
) -> dict[str, float]:
    """Measures a run on the test set, at its best checkpoint or, if nothing was held out, at its latest one.

    Args:
      config: the config of the run.
      workdir: the directory of the run; it is only read.
      dataset: arrays whose test split is taken, instead of the set that the run's config names.
      devices: the devices to use; all by default.

    Returns:
      `{"test_loss", "test_accuracy", "test_of_step"}`: the loss in nats, the accuracy between 0 and 1, and the step of
      the checkpoint. If the network has an integer form, that is what is measured, and `"shipped_accuracy"` is the
      same accuracy.

    Raises:
      UserError: the config is wrong, there is no usable checkpoint, or the data set is missing or does not fit.
    """
    configs.validate(config)
    processes = join(config)
    mesh = device_mesh(devices)
    run = restore_run(config, workdir, mesh=mesh)
    processes.agree("run", {"the step of the checkpoint": run.step}, "give all processes the same --workdir")
    config = run.config
    with processes.in_turn("the data set"):
        data = _data(config, dataset, mesh)
    configs.validate_dataset(config, data)
    check_data_of_run(run, data)
    processes.connect(mesh)
    height, width, _ = run.meta["image_shape"]
    evaluate = Evaluator(Network(run.graphdef), np.asarray(run.meta["mean"]), mesh, (height, width))
    result = evaluate(run.state.params, run.state.model_state, data.test)
    is_float = why_float(run.model()) is not None
    log.info(
        "%s, checkpoint at step %d, %s: test accuracy %.2f %%, loss %.4f",
        workdir,
        run.step,
        "float network" if is_float else "integer network",
        100 * result["accuracy"],
        result["loss"],
    )
    values = {"test_loss": result["loss"], "test_accuracy": result["accuracy"], "test_of_step": run.step}
    return values if is_float else values | {"shipped_accuracy": result["accuracy"]}


def _data(config: ConfigDict, given: ImageDataset | None, mesh: Mesh) -> ImageDataset | StreamedDataset:
    return load_dataset(config.data, resident_bytes(mesh)) if given is None else check_dataset(given)


def check_data_of_run(
    run: TrainedRun, dataset: ImageDataset | StreamedDataset, called: str = "the run"
) -> None:
    """Refuses a data set that is not the one of a run, as far as its class names and the size of its images tell.

    Args:
      run: the run.
      dataset: the data set.
      called: how the message calls the run.

    Raises:
      DataError: the message names what differs.
    """
    names, shape = tuple(run.meta["class_names"]), tuple(run.meta["image_shape"])
    for what, trained, given in (
        ("images of", "x".join(map(str, shape)), "x".join(map(str, dataset.image_shape))),
        ("the classes", ", ".join(names), ", ".join(dataset.class_names)),
    ):
        if trained != given:
            raise DataError(
                f"{called} was trained on {what} {trained}, but {dataset.name} has {what} {given}: give the data set that "
                "it was trained on"
            )


def evaluate_packed(config: ConfigDict, *, dataset: ImageDataset | None = None) -> dict[str, float]:
    """Measures a packed file on the test set.

    Args:
      config: `packed` is the path of the file or the name of a zoo model; `data` describes the data set.
      dataset: arrays whose test split is taken, instead of the set that the config names.

    Returns:
      `{"shipped_accuracy"}`, the accuracy between 0 and 1.

    Raises:
      UserError: there is no such file, or the data set is missing, or it has other images or classes than the network.
    """
    configs.validate(config)
    packed = load_packed(config.packed)
    data = _data(config, dataset, device_mesh())
    if not packed.network.takes(data.image_shape):
        expected, got = (
            "x".join(map(str, shape)) for shape in (packed.network.image_shape, data.image_shape)
        )
        raise DataError(
            f"{config.packed} takes images of {expected}, but those of {data.name} are {got}: give the config of "
            "the data set that it was trained on"
        )
    if packed.network.classes != len(data.class_names):
        raise DataError(
            f"{config.packed} has {packed.network.classes} classes, but {data.name} has {len(data.class_names)}: give the config "
            "of the data set that it was trained on"
        )
    if packed.class_names not in (None, data.class_names):
        raise DataError(
            f"{config.packed} was trained on other classes ({', '.join(packed.class_names)}) than {data.name} has: "
            "give the config of the data set that it was trained on"
        )
    right = sum(int(np.sum(packed.predict(images) == labels)) for images, labels in data.test.parts())
    accuracy = right / data.test.num_images
    log.info("%s, integer network: test accuracy %.2f %%", config.packed, 100 * accuracy)
    return {"shipped_accuracy": accuracy}
