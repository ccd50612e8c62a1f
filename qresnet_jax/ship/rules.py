"""Folds each layer and function into integer nodes: a rule for each, and what is known of their results.

A rule gets the steps of the recording one by one. Sums of a convolution wait: batch norm and ReLU only change what is known of
them, and the node is added when it is clear whether they become levels or a part of the stream.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from flax import nnx

from qresnet_jax import nn, pixels
from qresnet_jax.errors import ExportError
from qresnet_jax.nn import functions, recording
from qresnet_jax.quantize import fixed_point
from qresnet_jax.ship import nodes, trained
from qresnet_jax.ship.requantize import requantizer
from qresnet_jax.ship.thresholds import fold_quantizer


class Images:
    """The pixels of the images."""


IMAGES = Images()


@dataclasses.dataclass(frozen=True)
class IntegerSums:
    """The value `max(x * unit * multiplier + offset, 0)`, or that without `max`, of the integers x of a node.

    A node of its own is made when it is known whether the value becomes levels or part of the stream.
    """

    source: int  # the position of the node
    bound: int  # the largest |x|
    unit: np.ndarray  # float64 [] or [C]
    multiplier: np.ndarray  # float64 [C] or [1]
    offset: np.ndarray  # float64 [C] or [1]
    rectified: bool = False


class IntegerLevels(NamedTuple):
    """Levels, and the quantizer that makes them."""

    node: int
    quantizer: nn.Quantizer


class IntegerStream(NamedTuple):
    """The residual stream, or the mean of it."""

    node: int


class Logits(NamedTuple):
    node: int
    scale: float


class Folding:
    """The list of nodes under construction.

    Args:
      mean: the pixel means.
    """

    def __init__(self, mean: npt.ArrayLike) -> None:
        self.mean = mean
        self.nodes: list[nodes.Node] = []
        self.fraction_bits = fixed_point.FRACTION_BITS
        self._has_stream = False
        self._first_layer = ""

    def add(self, node: nodes.Node) -> int:
        """Adds a node, and returns its position."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def use_grid(self, fraction_bits: int) -> None:
        """Takes note of the stream's grid, of which a network has one.

        Raises:
          ExportError: there is another one.
        """
        if self._has_stream and fraction_bits != self.fraction_bits:
            raise ExportError(
                f"the network has streams with {self.fraction_bits} and {fraction_bits} fraction bits: give all of them one grid"
            )
        self.fraction_bits, self._has_stream = fraction_bits, True

    def begin_first_layer(self, name: str) -> None:
        """Takes note of the first layer's name, which goes to the node that completes it."""
        self._first_layer = name

    def end_first_layer(self) -> None:
        """Names the last node after the first layer, if nothing has read its result yet."""
        if self._first_layer:
            self.nodes[-1] = dataclasses.replace(self.nodes[-1], name=self._first_layer)
            self._first_layer = ""


# The rules, one for each layer and function: `(folding, step, *values of its inputs) -> value of its result`.

Rule = Callable[..., Any]
_Rule = TypeVar("_Rule", bound=Rule)
_RULES: dict[Any, Rule] = {}


def fold_rule(operation: Any) -> Callable[[_Rule], _Rule]:
    """Registers the function below it as the rule that folds a layer, given as its class, or a function.

    The rule is called with the folding, whose `add` adds an integer node; with the `Step`, whose `operation` is the layer; and
    with the values of the step's inputs: `IntegerSums`, `IntegerLevels` or `IntegerStream`. It returns such a value.
    """

    def register(rule: _Rule) -> _Rule:
        _RULES[operation] = rule
        return rule

    return register


class _MisfitError(Exception):
    """A layer cannot be folded where it stands; the message goes on after the layer's name."""


def rule_of(step: recording.Step) -> Rule:
    kinds = type(step.operation).__mro__ if isinstance(step.operation, nnx.Module) else (step.operation,)
    for kind in kinds:
        if kind in _RULES:
            return functools.partial(_checked, _RULES[kind])
    raise ExportError(f"{step.path}: {kinds[0].__name__} has no rule for folding: add one with fold_rule")


def _checked(rule: Rule, folding: Folding, step: recording.Step, *values: Any) -> Any:
    """Applies a rule, and names the layer if it does not fit its inputs."""
    try:
        return rule(folding, step, *values)
    except _MisfitError as misfit:
        name = step.path or getattr(step.operation, "__name__", "the network")
        raise ExportError(f"{name} {misfit}") from None


def _expect(value: Any, *kinds: type) -> None:
    if not isinstance(value, kinds):
        raise _MisfitError(
            f"reads {_WORDS[type(value)]}, but it needs {' or '.join(_WORDS[kind] for kind in kinds)}"
        )


_WORDS: dict[type, str] = {
    Images: "the images",
    IntegerSums: "sums of a convolution",
    IntegerLevels: "levels of a quantizer",
    IntegerStream: "the stream (see to_stream)",
    Logits: "logits",
}


def _exact(bound: int) -> int:
    if bound >= nodes.ACC_LIMIT:
        raise _MisfitError(
            f"has sums of up to {bound:,}, but only sums below 2**24 are exact: train with fewer "
            "config.model.act_bits (for the stem, stem_weight_bits), or a smaller config.model.width"
        )
    return bound


def _stride(conv: nn.StemConv | nn.BinaryConv) -> int:
    stride, other = conv.strides
    if stride != other or stride not in (1, 2):
        raise _MisfitError(
            f"has strides of {stride} and {other}, but only 1 and 1 or 2 and 2 have an integer form yet"
        )
    if any(size % 2 == 0 for size in conv.kernel_size):
        raise _MisfitError(f"has a kernel of {conv.kernel_size}, but only odd sizes have an integer form")
    return stride


_ONE, _ZERO = np.ones(1), np.zeros(1)


def _as_sums(folding: Folding, stream: IntegerStream) -> IntegerSums:
    """Returns the stream as integers of its grid's unit, on which a batch norm or a quantizer can work."""
    unit = np.asarray(2.0**-folding.fraction_bits)
    return IntegerSums(stream.node, -nodes.STREAM_MIN, unit, _ONE, _ZERO)


@fold_rule(nn.StemConv)
def _stem(folding: Folding, step: recording.Step, images: Any) -> IntegerSums:
    _expect(images, Images)
    stem: nn.StemConv = step.operation
    if stem.weight_bits is None:
        raise _MisfitError(
            "has float weights, which have no integer form: train with config.model.weight_bits=1"
        )
    bound = _exact(stem.acc_max())
    weights, unit = trained.stem_weights(stem)
    double_mean = pixels.double_mean(folding.mean, stem.in_features)
    node = nodes.StemNode(weights=weights, double_mean=double_mean, stride=_stride(stem))
    folding.begin_first_layer(step.path)
    return IntegerSums(folding.add(node), bound, unit, _ONE, _ZERO)


@fold_rule(nn.BinaryConv)
def _binary_conv(folding: Folding, step: recording.Step, levels: Any) -> IntegerSums:
    _expect(levels, IntegerLevels)
    conv: nn.BinaryConv = step.operation
    bound = _exact(conv.acc_max(levels.quantizer.max_level))
    node = nodes.BinaryConvNode(
        name=step.path, inputs=(levels.node,), signs=trained.signs(conv), stride=_stride(conv)
    )
    unit = trained.unit_of_levels(conv, levels.quantizer)
    return IntegerSums(folding.add(node), bound, unit, _ONE, _ZERO)


@fold_rule(nn.BatchNorm)
def _batch_norm(folding: Folding, step: recording.Step, x: Any) -> IntegerSums:
    _expect(x, IntegerSums, IntegerStream)
    multiplier, offset = trained.affine(step.operation)
    if isinstance(x, IntegerStream):
        x = _as_sums(folding, x)
    if x.rectified:
        raise _MisfitError(
            "reads sums behind a relu, which cannot be folded: put a quantizer or to_stream in front of it"
        )
    return dataclasses.replace(x, multiplier=x.multiplier * multiplier, offset=x.offset * multiplier + offset)


@fold_rule(nn.Quantizer)
def _quantizer(folding: Folding, step: recording.Step, x: Any) -> IntegerLevels:
    _expect(x, IntegerSums, IntegerStream)
    folding.end_first_layer()
    if isinstance(x, IntegerStream):
        x = _as_sums(folding, x)
    node = fold_quantizer(step.operation, x.unit, x.multiplier, x.offset, x.bound)
    return IntegerLevels(folding.add(dataclasses.replace(node, inputs=(x.source,))), step.operation)


@fold_rule(nn.relu)
def _relu(folding: Folding, step: recording.Step, x: Any) -> IntegerSums | IntegerStream:
    _expect(x, IntegerSums, IntegerStream)
    if isinstance(x, IntegerSums):
        return dataclasses.replace(x, rectified=True)
    return IntegerStream(folding.add(nodes.ReluNode(inputs=(x.node,))))


@fold_rule(nn.to_stream)
def _to_stream(folding: Folding, step: recording.Step, x: Any) -> IntegerStream:
    if not isinstance(step.result, nn.Stream):
        raise _MisfitError("leaves a float stream, which has no integer form: give it fraction_bits")
    folding.use_grid(step.result.fraction_bits)
    if isinstance(x, IntegerStream):
        return x
    _expect(x, IntegerSums)
    channels = (step.result.shape[-1],)
    multiplier = np.broadcast_to(x.multiplier * x.unit, channels)
    node = requantizer(multiplier, np.broadcast_to(x.offset, channels), x.bound, folding.fraction_bits)
    stream = folding.add(dataclasses.replace(node, inputs=(x.source,)))
    return IntegerStream(folding.add(nodes.ReluNode(inputs=(stream,))) if x.rectified else stream)


@fold_rule(functions.add_alike)
def _add(folding: Folding, step: recording.Step, a: Any, b: Any) -> IntegerStream:
    for x in (a, b):
        _expect(x, IntegerStream)
    return IntegerStream(folding.add(nodes.AddNode(inputs=(a.node, b.node))))


@fold_rule(nn.max_pool)
def _max_pool(folding: Folding, step: recording.Step, x: Any) -> IntegerStream:
    _expect(x, IntegerStream)
    known = {"window": (3, 3), "strides": (2, 2), "padding": ((1, 1), (1, 1))}
    if step.options != known:
        raise _MisfitError("has no integer form yet but with a window of 3x3, strides of 2 and a border of 1")
    return IntegerStream(folding.add(nodes.MaxPoolNode(inputs=(x.node,))))


@fold_rule(nn.global_mean)
def _global_mean(folding: Folding, step: recording.Step, x: Any) -> IntegerStream:
    _expect(x, IntegerStream)
    return IntegerStream(folding.add(nodes.MeanPoolNode(inputs=(x.node,))))


@fold_rule(nn.Classifier)
def _classifier(folding: Folding, step: recording.Step, x: Any) -> Logits:
    _expect(x, IntegerStream)
    bits = step.operation.fraction_bits
    if bits != folding.fraction_bits:
        raise _MisfitError(
            f"has fraction_bits={bits}, but reads a stream with {folding.fraction_bits} fraction bits: give both the same"
        )
    weights, bias, unit = trained.classifier_weights(step.operation)
    node = nodes.ClassifierNode(name=step.path, inputs=(x.node,), weights=weights, bias=bias)
    return Logits(folding.add(node), unit)
