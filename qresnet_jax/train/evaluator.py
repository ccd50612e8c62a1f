"""Loss and accuracy over a whole split, every image once; and of a finished run on the test split."""

import logging
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.data import Split, load_dataset
from qresnet_jax.errors import DataError
from qresnet_jax.models.architecture import has_integer_form
from qresnet_jax.models.resnet import ResNet, create_model
from qresnet_jax.ship.fold import fold
from qresnet_jax.ship.jax import engine as jax_engine
from qresnet_jax.ship.load import load_packed
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.checkpoint import Checkpoints
from qresnet_jax.train.parallel import device_mesh, map_eval_step, replicate
from qresnet_jax.train.step import METRICS, TrainState, init_state, make_eval_step

log = logging.getLogger("qresnet_jax")

BATCH = 512  # images at once, over all devices


class Evaluator:
    """Evaluates a model on splits; compiles once.

    Args:
      graphdef: of the model in evaluation mode.
      mean: pixel means, float `[C]`.
      mesh: of the devices that share the work.
    """

    def __init__(self, graphdef: nnx.GraphDef[ResNet], mean: np.ndarray, mesh: Mesh) -> None:
        self._step = map_eval_step(make_eval_step(graphdef), mesh)
        self._mean = replicate(jnp.asarray(mean, jnp.float32), mesh)
        self._batch = -(-BATCH // mesh.size) * mesh.size

    def __call__(self, params: nnx.State, model_state: nnx.State, split: Split) -> dict[str, float]:
        """`{"loss", "accuracy"}` over all images of `split`, whatever the batch size and the number of devices.

        Args:
          params, model_state: of the model.
          split: `images` uint8 `[N, H, W, C]` and `labels` int32 `[N]`.
        """
        totals = dict.fromkeys(METRICS, 0.0)
        for start in range(0, len(split.labels), self._batch):
            pixels, labels = (x[start : start + self._batch] for x in split)
            missing = self._batch - len(labels)
            pixels = np.pad(pixels, ((0, missing), (0, 0), (0, 0), (0, 0)))
            labels = np.pad(labels, (0, missing), constant_values=-1)  # padding counts for nothing
            sums = jax.device_get(self._step(params, model_state, pixels, labels, self._mean))
            totals = {name: totals[name] + float(sums[name]) for name in METRICS}
        return {"loss": totals["loss"] / totals["images"], "accuracy": totals["correct"] / totals["images"]}


class TrainedRun(NamedTuple):
    """A finished or running training, read from its workdir."""

    graphdef: nnx.GraphDef[ResNet]  # of the model in evaluation mode
    state: TrainState
    meta: dict[str, Any]  # saved with the checkpoint: config, class_names, mean, image_shape
    step: int
    config: ConfigDict  # that of the run; where its data lie, as given

    def model(self) -> ResNet:
        """The trained network, in evaluation mode."""
        return nnx.merge(self.graphdef, self.state.params, self.state.model_state)


def restore_run(
    config: ConfigDict, workdir: str | os.PathLike[str], *, mesh: Mesh | None = None
) -> TrainedRun:
    """Reads a run's best checkpoint, or its last one where nothing was held out.

    Network and optimizer are those that the run was trained with, whatever `config` says: other activation bits, say, would
    fit the checkpoint's arrays and be another network. What differs is logged.

    Args:
      config: gives the places of the data, and what to predict, export and time.
      workdir: of the run; it is only read.
      mesh: of the devices to put it on, all by default.

    Raises:
      UserError: no checkpoint there, or a damaged one.
    """
    checkpoints = Checkpoints(workdir, read_only=True)
    step = checkpoints.best_step
    assert step is not None  # there are checkpoints, or the directory would have been refused
    meta = checkpoints.meta(step)
    config = _as_trained(config, meta["config"])
    model = create_model(config.model, rngs=nnx.Rngs(config.seed), dtype=config.dtype)
    model.eval()
    graphdef, params, *others = nnx.split(model, nnx.Param, ...)
    (model_state,) = others
    tx = optim.optimizer(config.optim, params, 1, 1)  # the tree of its state does not depend on the schedule
    like = replicate(init_state(params, model_state, tx), device_mesh() if mesh is None else mesh)
    run = TrainedRun(graphdef, checkpoints.restore(step, like), meta, step, config)
    checkpoints.close()
    return run


def _as_trained(config: ConfigDict, saved: dict[str, Any]) -> ConfigDict:
    """The run's config, with what was asked for now."""
    trained, given = configs.from_json(saved), configs.flatten(config)
    now = {name: value for name, value in given.items() if name.startswith(configs.OF_THE_CALL)}
    with trained.ignore_type():
        trained.update_from_flattened_dict(now)
    fields = configs.flatten(trained)
    differing = [f"{name}={value}" for name, value in fields.items() if given.get(name) != value]
    if differing:
        log.info("as the run was trained, not as the config says: %s", ", ".join(differing))
    return trained


def fold_run(run: TrainedRun) -> IntegerNetwork:
    """The integer network of a run, see `qresnet_jax.fold`."""
    names, shape = run.meta["class_names"], tuple(run.meta["image_shape"][:2])
    return fold(run.model(), mean=np.asarray(run.meta["mean"]), class_names=names, image_shape=shape)


def evaluate_checkpoint(
    config: ConfigDict, workdir: str | os.PathLike[str], *, devices: Sequence[jax.Device] | None = None
) -> dict[str, float]:
    """Test loss and accuracy of a run's best checkpoint, or of its last one where nothing was held out.

    Args:
      config: that of the run.
      workdir: of the run; it is only read.
      devices: to use, all by default.

    Returns:
      `{"test_loss", "test_accuracy", "test_of_step"}`, and `"shipped_accuracy"` of the integer network where there is one.

    Raises:
      UserError: no checkpoint there, or one of another network; missing data.
    """
    configs.validate(config)
    mesh = device_mesh(devices)
    run = restore_run(config, workdir, mesh=mesh)
    config = run.config
    dataset = load_dataset(config.data)
    configs.validate_dataset(config, dataset)
    evaluate = Evaluator(run.graphdef, np.asarray(run.meta["mean"]), mesh)
    result = evaluate(run.state.params, run.state.model_state, dataset.test)
    log.info(
        "%s, checkpoint at step %d: test accuracy %.2f %%, loss %.4f",
        workdir,
        run.step,
        100 * result["accuracy"],
        result["loss"],
    )
    values = {"test_loss": result["loss"], "test_accuracy": result["accuracy"], "test_of_step": run.step}
    if has_integer_form(config.model):
        network = fold_run(run)
        images, labels = dataset.test
        values["shipped_accuracy"] = float(np.mean(jax_engine.logits(network, images).argmax(-1) == labels))
        log.info("integer network: test accuracy %.2f %%", 100 * values["shipped_accuracy"])
    return values


def evaluate_packed(config: ConfigDict) -> dict[str, float]:
    """Test accuracy of a packed file.

    Args:
      config: `packed` is the file, or a model of the zoo; `data` the data set.

    Returns:
      `{"shipped_accuracy"}`.

    Raises:
      UserError: no such file, missing data, or images or classes that are not the network's.
    """
    configs.validate(config)
    packed = load_packed(config.packed)
    dataset = load_dataset(config.data)
    images, labels = dataset.test
    if not packed.network.takes(images.shape[1:]):
        expected, got = (
            "x".join(map(str, shape)) for shape in (packed.network.image_shape, images.shape[1:])
        )
        raise DataError(
            f"{config.packed} takes images of {expected}, {dataset.name} has {got}: give its data set's config"
        )
    if packed.class_names not in (None, dataset.class_names):
        raise DataError(
            f"{config.packed} was trained on other classes ({', '.join(packed.class_names)}) than {dataset.name} has: "
            "give its data set's config"
        )
    accuracy = float(np.mean(packed.predict(images) == labels))
    log.info("%s, integer network: test accuracy %.2f %%", config.packed, 100 * accuracy)
    return {"shipped_accuracy": accuracy}
