"""Folds a trained network into the integers that ship.

Between two convolutions lie a scale s, a step alpha / n, a batch norm, a ReLU and a quantizer. They are
folded in two ways:

- If the result goes to the residual stream, they become `(acc * M + C) >> k`, see `qresnet_jax.ship.requantize`.
- If the result goes to a quantizer, they become thresholds on the integer acc, see `qresnet_jax.ship.thresholds`.

The network is called once, on a symbol, which records what it computes (see `qresnet_jax.nn.recording`). A rule for each
layer and each function then adds the integer nodes. Everything is computed on the host, in float64. So a checkpoint gives
the same integers on every platform, and what XLA makes of products and sums has no influence on them.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.errors import ExportError
from qresnet_jax.nn import recording
from qresnet_jax.ship import nodes, rules  # noqa: F401  # the rules register themselves
from qresnet_jax.ship.folding import IMAGES, Folding, Logits, rule_of
from qresnet_jax.ship.network import IntegerNetwork, height_and_width, image_size

# Height and width of the images that a network of any size is recorded with: odd, also when a convolution has halved it, so
# that a network for even sizes alone is refused.
ANY_SIZE = 65


def fold(
    model: nnx.Module,
    *,
    mean: npt.ArrayLike = 127.5,
    class_names: Sequence[str] | None = None,
    image_shape: tuple[int, int] | None = None,
) -> IntegerNetwork:
    """Returns the integer network of a trained model. Validation and test run this network.

    Args:
      model: a network of the layers in `qresnet_jax.nn`, in any mode. It is not changed.
      mean: the pixel means that training subtracted, multiples of 1/2 from 0 to 255, one number or one per
        channel. A checkpoint's description has them as `mean`.
      class_names: names of the classes in the order of the logits, or None.
      image_shape: `(height, width)` of the images if the network shall accept only this size, or None.

    Raises:
      ExportError: if the network has float weights or activations, or computes something else that has no integer form,
        if its sums reach 2**24, or if a parameter is not finite.
      TypeError: if `model` is no module.
      ValueError: if a mean, the number of names or the shape is not possible.
    """
    return fold_traced(model, mean=mean, class_names=class_names, image_shape=image_shape).network


class Folded(NamedTuple):
    """An integer network, and what it was folded from."""

    network: IntegerNetwork
    steps: list[recording.Step]
    # For each step, the position of the first node that it became; None if it became part of another.
    made: list[int | None]


def fold_traced(
    model: nnx.Module,
    *,
    mean: npt.ArrayLike,
    class_names: Sequence[str] | None,
    image_shape: tuple[int, int] | None,
    known: Sequence[recording.Step] | None = None,
) -> Folded:
    """Does what `fold` does, and also returns the steps of the trained network and which node each became.

    Args:
      model, mean, class_names, image_shape: see `fold`.
      known: see `steps_of`.
    """
    if not isinstance(model, nnx.Module):
        raise TypeError(f"fold takes a network, as a Flax NNX module, got {type(model).__name__}")
    if reason := why_float(model):
        raise ExportError(reason)
    if image_shape is not None:
        rows, columns = height_and_width(image_shape)
        image_shape = image_size("height", rows), image_size("width", columns)
    steps = steps_of(model, image_shape, known)
    folding = Folding(mean, steps, image_shape)
    values: list[Any] = []
    made: list[int | None] = []
    for step in steps:
        before = len(folding.nodes)
        values.append(rule_of(step)(folding, step, *(values[i] if i >= 0 else IMAGES for i in step.inputs)))
        made.append(before if len(folding.nodes) > before else None)
    if not isinstance(values[-1], Logits):
        raise ExportError(
            "the last layer must be a qresnet_jax.nn.Classifier, whose result the network returns"
        )
    _name_modules(folding.nodes, steps, values)
    height, width = (None, None) if image_shape is None else image_shape
    network = IntegerNetwork(
        tuple(folding.nodes),
        fraction_bits=folding.fraction_bits,
        logit_scale=values[-1].scale,
        class_names=None if class_names is None else tuple(class_names),
        height=height,
        width=width,
    )
    return Folded(network, steps, made)


def without_layers(steps: Sequence[recording.Step]) -> list[recording.Step]:
    """Returns steps that keep no variables alive; `steps_of` takes them as `known`."""
    return [step._replace(operation=None) if step.path else step for step in steps]


def steps_of(
    model: nnx.Module,
    image_shape: tuple[int, int] | None = None,
    known: Sequence[recording.Step] | None = None,
) -> list[recording.Step]:
    """Returns what a network computes, with its variables on the host.

    Args:
      model: a network of the layers in `qresnet_jax.nn`, in any mode. It is not changed.
      image_shape: `(height, width)` of the images, or None for any size.
      known: what an earlier call returned for this network with other variables and the same size. Then the network is not
        called again, which saves tenths of a second.

    Raises:
      ExportError: the network computes something that cannot be recorded, or a parameter is not finite.
    """
    graphdef, state = nnx.split(
        nnx.view(model, use_running_average=True, deterministic=True, raise_if_not_found=False)
    )
    state = jax.device_get(state)
    _check_finite(state)
    model = nnx.merge(graphdef, state)  # a copy on the host, so that nothing below computes on a device
    modules = {recording.dotted(path): module for path, module in nnx.iter_modules(model)}
    steps = _recorded(model, modules.values(), image_shape) if known is None else known
    return [s._replace(operation=modules[s.path]) if s.path else s for s in steps]


def _recorded(
    model: nnx.Module, modules: Iterable[nnx.Module], image_shape: tuple[int, int] | None
) -> list[recording.Step]:
    height, width = (ANY_SIZE, ANY_SIZE) if image_shape is None else image_shape
    shape = (height, width, _channels(modules, image_shape))
    try:
        return recording.record(model, shape)
    except (TypeError, ValueError) as error:  # JAX raises both where shapes do not fit
        if image_shape is None:
            raise ExportError(
                f"the network does not take images of any size, so give image_shape=(height, width) ({error})"
            ) from error
        raise


def _channels(modules: Iterable[nnx.Module], image_shape: tuple[int, int] | None) -> int:
    """Returns the number of channels of the images, which the first layer knows."""
    for module in modules:
        if isinstance(module, nn.StemDense):
            return _channels_of_pixels(module.in_features, image_shape)
        if isinstance(module, nn.StemConv):
            return module.in_features
    raise ExportError(
        "the network has no first layer for pixels: make it a qresnet_jax.nn.StemConv or StemDense"
    )


def _channels_of_pixels(features: int, image_shape: tuple[int, int] | None) -> int:
    if image_shape is None:
        raise ExportError(
            "a network with a StemDense needs images of one size: give image_shape=(height, width)"
        )
    channels, rest = divmod(features, image_shape[0] * image_shape[1])
    if rest or not channels:
        raise ExportError(
            f"the first layer has {features} inputs, which images of {image_shape[0]} x {image_shape[1]} pixels do not have"
        )
    return channels


def why_float(model: nnx.Module) -> str | None:
    """Says why a network has no integer form, and how to train one that has; returns None if it has one."""
    modules = list(nnx.iter_modules(model))
    if any(isinstance(module, nn.FloatConv) for _, module in modules):
        return "a network with float weights has no integer form: train with config.model.weight_bits=1"
    for path, module in sorted(modules, key=lambda found: str(found[0])):
        if isinstance(module, nn.FloatActivation):
            owner = path[:-2] if isinstance(path[-1], int) else path  # of a list, the module that has it
            return (
                f"{recording.dotted(owner)} has float activations, which have no integer form: train with a quantizer "
                "as config.model.activation and with config.model.act_bits of 1 to 8"
            )
    if getattr(model, "fraction_bits", 0) is None:  # of a ResNet
        return "a network with a float stream has no integer form: give it fraction bits"
    return None


def _check_finite(state: nnx.State) -> None:
    for path, value in jax.tree.leaves_with_path(state):
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            raise ExportError(
                f"{jax.tree_util.keystr(path)} is a random key, which has no integer form: if it belongs to an nnx.Dropout, take "
                "qresnet_jax.nn.Dropout"
            )
        if not np.all(np.isfinite(value)):
            raise ExportError(
                f"{jax.tree_util.keystr(path)} is not finite, so this network cannot be shipped: export an earlier "
                "checkpoint, or train again"
            )


def _name_modules(named: list[nodes.Node], steps: Sequence[recording.Step], values: Sequence[Any]) -> None:
    """Names the nodes that complete a module, if they have no name of their own."""
    last: dict[str, int] = {}
    for step, value in zip(steps, values, strict=True):
        node = getattr(value, "node", None)
        if step.caller and node is not None:
            last[step.caller] = node
    for name, node in last.items():
        if not named[node].name:
            named[node] = dataclasses.replace(named[node], name=name)
