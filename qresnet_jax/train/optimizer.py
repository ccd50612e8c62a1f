"""Builds the optimizer: learning rate schedules, and one group of parameters for each type of variable."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib
from flax import nnx
from ml_collections import ConfigDict

from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel, FloatKernel, NormParam
from qresnet_jax.quantize.activations import MIN_CLIPPING_LEVEL
from qresnet_jax.quantize.hysteresis import hysteresis_binarize

# From the most to the least specific type; every nnx.Param belongs to the first group that fits.
GROUPS: dict[Any, str] = {
    BinaryKernel: "binary",
    ClippingLevel: "clipping_level",
    NormParam: "norm",
    nnx.Param: "float",
}
# With Muon, which is for the kernels inside a network only, float ones have a group of their own.
MUON_GROUPS: dict[Any, str] = {FloatKernel: "float_kernel", **GROUPS}


def labels(params: nnx.State, groups: Mapping[Any, str] = GROUPS) -> nnx.State:
    """Returns the name of each parameter's group, which the type of its variable decides.

    Args:
      params: the state of all `nnx.Param`s of a model.
      groups: `GROUPS` or `MUON_GROUPS`.

    Returns:
      A tree with the structure of `params` and a value of `groups` for each variable.

    Raises:
      TypeError: a variable is no `nnx.Param`; the message has its path.
    """

    def label(path: jax.tree_util.KeyPath, variable: object) -> str:
        for kind, name in groups.items():
            if isinstance(variable, kind):
                return name
        raise TypeError(
            f"no parameter group for {jax.tree_util.keystr(path)} of type {type(variable).__name__}: "
            "make it an nnx.Param"
        )

    return jax.tree_util.tree_map_with_path(label, params, is_leaf=lambda v: isinstance(v, nnx.Variable))


def schedule(optim: ConfigDict, total_steps: int, steps_per_epoch: int) -> optax.Schedule:
    """Returns the learning rate, divided by its peak, as a function of the step; its values are between 0 and 1.

    "cosine" falls to 0 at the end, "step" is divided by 10 at 30, 60 and 90 % of training, and "constant" stays at 1. A
    linear warm-up takes the first `warmup_epochs` of the training.

    Args:
      optim: the `optim` part of a config; `schedule` and `warmup_epochs` count.
      total_steps: the number of steps of the whole training.
      steps_per_epoch: for the warm-up.
    """
    warmup = round(optim.warmup_epochs * steps_per_epoch)
    rest = max(total_steps - warmup, 1)
    if optim.schedule == "cosine":
        course = optax.cosine_decay_schedule(1.0, rest)
    elif optim.schedule == "step":
        course = optax.piecewise_constant_schedule(
            1.0, {round(share * total_steps) - warmup: 0.1 for share in (0.3, 0.6, 0.9)}
        )
    else:
        course = optax.constant_schedule(1.0)
    if not warmup:
        return course
    return optax.join_schedules([lambda step: (step + 1) / (warmup + 1), course], [warmup])


def keep_above(minimum: float) -> optax.GradientTransformation:
    """Returns a transformation that shortens updates so that no parameter falls below `minimum`."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(lambda u, p: jnp.maximum(p + u, minimum) - p, updates, params)
    )


def muon(rate: optax.Schedule, momentum: float) -> optax.GradientTransformation:
    """Returns Muon for kernels `[kh, kw, in, out]`: SGD whose momentum is made orthogonal first (Jordan et al. 2024).

    Each kernel is a matrix of `kh * kw * in` rows and `out` columns. So all directions of a kernel move alike, and how large the
    gradients are does not matter. Without weight decay, as a batch norm makes the size of a kernel meaningless.

    Args:
      rate: the learning rate, by the step. An update has singular values of about this size.
      momentum: of the gradients' moving average (Nesterov), at least 0 and below 1.
    """
    matrix = optax.contrib.MuonDimensionNumbers(reduction_axis=(0, 1, 2), output_axis=3)
    orthogonal = optax.contrib.scale_by_muon(
        beta=momentum, weight_dimension_numbers=lambda kernels: jax.tree.map(lambda _: matrix, kernels)
    )
    return optax.chain(orthogonal, optax.scale_by_learning_rate(rate))


def optimizer(
    optim: ConfigDict, params: nnx.State, total_steps: int, steps_per_epoch: int
) -> optax.GradientTransformation:
    """Builds the optax transformation that `config.optim` describes.

    Args:
      optim: the `optim` part of a config. Its numbers that are not 0 may be arrays, also traced ones.
      params: the state of all `nnx.Param`s of the model; only its types are used.
      total_steps: the number of steps of the whole training, for the schedule.
      steps_per_epoch: for the warm-up.

    Raises:
      TypeError: a variable of `params` is no `nnx.Param`.
    """
    course = schedule(optim, total_steps, steps_per_epoch)
    has_muon = optim.name == "muon"
    momentum = optim.momentum if _is_set(optim.momentum) else None

    def rate(step: jax.Array) -> jax.Array:
        return optim.learning_rate * course(step)

    def kernel_rate(step: jax.Array) -> jax.Array:
        return optim.muon.learning_rate * course(step) if has_muon else rate(step)

    def latent_rate(step: jax.Array) -> jax.Array:
        if not _is_set(optim.latent_rate - 1.0):
            return kernel_rate(step)
        is_binary = step >= optim.float_epochs * steps_per_epoch
        return kernel_rate(step) * jnp.where(is_binary, optim.latent_rate, 1.0)

    def kernels(rate: optax.Schedule) -> optax.GradientTransformation:
        return muon(rate, optim.muon.momentum) if has_muon else base(optim.weight_decay, rate)

    def base(weight_decay: float, rate: optax.Schedule = rate) -> optax.GradientTransformation:
        if optim.name == "adamw":
            return optax.adamw(rate, weight_decay=weight_decay)
        decay = [optax.add_decayed_weights(weight_decay)] if _is_set(weight_decay) else []
        return optax.chain(*decay, optax.sgd(rate, momentum=momentum))

    groups = {
        "binary": hysteresis_binarize(
            optim.hysteresis.threshold, optim.hysteresis.relative, inner=kernels(latent_rate)
        ),
        "float": base(optim.weight_decay),
        "norm": base(0.0),
        # Flattened into one vector, so that all clipping levels take one operation instead of one each.
        "clipping_level": optax.flatten(
            optax.chain(
                optax.add_decayed_weights(optim.clipping_level.l2),
                optax.sgd(
                    lambda step: optim.clipping_level.learning_rate * course(step),
                    momentum=momentum,
                ),
                keep_above(MIN_CLIPPING_LEVEL),
            )
        ),
    }
    if has_muon:  # or the checkpoints of other runs would have other arrays than before
        groups["float_kernel"] = kernels(kernel_rate)
    group_of = labels(params, MUON_GROUPS if has_muon else GROUPS)
    if "clipping_level" not in jax.tree.leaves(group_of):
        del groups["clipping_level"]  # optax.flatten refuses an empty group
    clip = [optax.clip_by_global_norm(optim.gradient_clip)] if _is_set(optim.gradient_clip) else []
    return optax.chain(*clip, optax.partition(groups, group_of))


def _is_set(number: float | jax.Array) -> bool:
    """Returns whether a number is not 0; of a traced one nobody knows, so it counts as set."""
    return isinstance(number, jax.Array) or number != 0
