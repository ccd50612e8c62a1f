"""One training step and one evaluation batch, as pure functions that each device computes."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from qresnet_jax.models.resnet import ResNet
from qresnet_jax.nn.variables import Draw, Temperature
from qresnet_jax.ops.collectives import mean_over, sum_over
from qresnet_jax.pixels import normalize
from qresnet_jax.train.batches import TrainData, train_batch
from qresnet_jax.train.distillation import TaughtData, distillation_loss
from qresnet_jax.train.metrics.diagnostics import extend_walk, start_walk, step_diagnostics
from qresnet_jax.train.network import Network, merge, overlay

AXIS = "devices"  # the name of the axis that training is mapped over


class TrainState(NamedTuple):
    """Holds everything that a step changes; a checkpoint holds exactly this."""

    step: jax.Array  # int32 [], the number of steps done
    params: (
        nnx.State
    )  # every nnx.Param; binary kernels hold the binary weights that the network computes with
    model_state: nnx.State  # the rest of the model: batch norm statistics, temperatures
    opt_state: optax.OptState  # includes the latent weights and their signs
    sums: dict[
        str, jax.Array
    ]  # float32 [] or [layers], sums of metrics over the steps since they were last logged
    first_bad_step: jax.Array  # int32 [], the first step whose loss was not finite, or -1
    walk: dict[str, jax.Array]  # the record of a few weights in the hysteresis loop, see `start_walk`


METRICS = ("loss", "correct", "images")
TrainStep = Callable[[TrainState, TrainData], TrainState]
EvalStep = Callable[[nnx.State, nnx.State, jax.Array, jax.Array], jax.Array]


def init_state(params: nnx.State, model_state: nnx.State, tx: optax.GradientTransformation) -> TrainState:
    """Returns the state before the first step. It shares no buffers with its arguments, so it can be donated."""

    @jax.jit  # one program, instead of several for each shape of a kernel
    def init(params: nnx.State, model_state: nnx.State) -> TrainState:
        params, model_state = jax.tree.map(jnp.array, (params, model_state))
        opt_state = tx.init(params)
        sums = {name: jnp.zeros([], jnp.float32) for name in METRICS}
        measured = jax.eval_shape(step_diagnostics, params, opt_state)
        sums |= {name: jnp.zeros(x.shape, x.dtype) for name, x in measured.items()}
        none, zero = jnp.full([], -1, jnp.int32), jnp.zeros([], jnp.int32)
        return TrainState(zero, params, model_state, opt_state, sums, none, start_walk(params))

    return init(params, model_state)


def make_train_step(
    network: Network,
    tx: optax.GradientTransformation,
    config: ConfigDict,
    *,
    num_shards: int,
    steps_per_epoch: int,
    total_steps: int,
) -> TrainStep:
    """Builds the training step of one replica, `(state, data) -> state`, which is to be mapped over the axis `AXIS`.

    Args:
      network: the network that computes the loss.
      tx: from `qresnet_jax.train.optimizer.optimizer`.
      config: the whole config.
      num_shards: the size of the axis.
      steps_per_epoch: the number of steps of an epoch.
      total_steps: the number of steps of the run.
    """
    temperature, distillation = config.optim.temperature, config.optim.distillation
    first_quantized = config.optim.float_epochs * steps_per_epoch

    def loss_fn(
        params: nnx.State,
        model_state: nnx.State,
        step: jax.Array,
        images: jax.Array,
        labels: jax.Array,
        taught: jax.Array | None,
    ) -> tuple[jax.Array, tuple[nnx.State, jax.Array]]:
        model = merge(network.graphdef, *network.variables(params, model_state))
        if config.remat != "none":
            model.set_attributes(ResNet, remat=config.remat)
        for _, variable in nnx.iter_graph(model):
            if isinstance(variable, Temperature):
                done = step / total_steps
                variable[...] = temperature.start + (temperature.end - temperature.start) * done
            elif isinstance(variable, Draw):
                variable[...] = step * num_shards + jax.lax.axis_index(AXIS)
        logits = model(images)
        targets = optax.smooth_labels(jax.nn.one_hot(labels, logits.shape[-1]), config.optim.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, targets).mean()
        if taught is not None:
            by_teacher = distillation_loss(logits, taught, distillation.temperature)
            loss = (1 - distillation.weight) * loss + distillation.weight * by_teacher
        changed = nnx.state(model, nnx.Not(nnx.Any(nnx.Param, Draw)))
        return loss, (overlay(model_state, changed), logits)

    def step(state: TrainState, data: TrainData) -> TrainState:
        pixels, labels = train_batch(
            data,
            state.step,
            steps_per_epoch=steps_per_epoch,
            batch_size=config.batch_size,
            shard=jax.lax.axis_index(AXIS),
            num_shards=num_shards,
            padding=config.data.crop_padding,
            flip=config.data.flip,
        )
        images = normalize(pixels, data.mean)
        taught = data.teacher.logits(pixels) if isinstance(data, TaughtData) else None
        (loss, (model_state, logits)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, state.model_state, state.step, images, labels, taught
        )
        grads = mean_over(grads, AXIS)
        if not config.model.sync_bn:
            # Each device normalises with its own statistics, but the running statistics are the same on all.
            model_state = mean_over(model_state, AXIS)
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        walk = state.walk
        if network.holds_latents:
            params = overlay(params, optax.tree.get(opt_state, "latent"))
        else:
            walk = extend_walk(walk, state.step - first_quantized, opt_state)

        size = jnp.float32(len(labels))
        new = {"loss": loss * size, "correct": jnp.sum(logits.argmax(-1) == labels), "images": size}
        new = sum_over(jax.tree.map(jnp.float32, new), AXIS)
        sums = jax.tree.map(jnp.add, state.sums, new | step_diagnostics(grads, opt_state))
        is_bad = (state.first_bad_step < 0) & ~jnp.isfinite(new["loss"])
        first_bad_step = jnp.where(is_bad, state.step, state.first_bad_step)
        return TrainState(state.step + 1, params, model_state, opt_state, sums, first_bad_step, walk)

    return step


def make_eval_step(network: Network) -> EvalStep:
    """Builds `(params, model_state, pixels, mean) -> logits`, which evaluates one device's share of a batch in float.

    `pixels` are uint8 `[N, H, W, C]`, `mean` is float32 `[C]`, and the logits are float32 `[N, classes]`.

    Args:
      network: the network, in evaluation mode.
    """

    def step(params: nnx.State, model_state: nnx.State, pixels: jax.Array, mean: jax.Array) -> jax.Array:
        model = merge(network.graphdef, *network.variables(params, model_state))
        return model(normalize(pixels, mean))

    return step
