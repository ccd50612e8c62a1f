"""What rules for folding work with: the nodes so far, what is known of results, and the register of the rules.

A rule gets the steps of the recording one by one. Sums of a convolution wait: batch norm and ReLU only change what is known of
them, and the node is added when it is clear whether they become levels or a part of the stream.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.errors import ExportError
from qresnet_jax.nn import functions, recording
from qresnet_jax.quantize import fixed_point
from qresnet_jax.ship import nodes
from qresnet_jax.ship.thresholds import Affine


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
    # What comes before multiplier and offset: for each pair, `max(x * multiplier + offset, 0)`.
    inner: tuple[Affine, ...] = ()


class IntegerLevels(NamedTuple):
    """Levels, and the quantizer that makes them."""

    node: int
    quantizer: nn.Quantizer


class IntegerStream(NamedTuple):
    """The residual stream."""

    node: int


class Flattened(NamedTuple):
    """Pixels, levels, sums or a stream that is read as one vector; a dense layer behind it reads the image itself."""

    value: Any
    size: tuple[int, int]  # height and width


class Logits(NamedTuple):
    node: int
    scale: float


class Folding:
    """The list of nodes under construction.

    Args:
      mean: the pixel means.
      steps: those of the network.
      image_shape: `(height, width)` of the images, or None for any.
    """

    def __init__(
        self, mean: npt.ArrayLike, steps: Sequence[recording.Step], image_shape: tuple[int, int] | None
    ) -> None:
        self.mean, self.image_shape = mean, image_shape
        self._steps = steps
        self.nodes: list[nodes.Node] = []
        self.fraction_bits = fixed_point.FRACTION_BITS
        self._has_stream = False
        self._first_layer = ""

    def add(self, node: nodes.Node) -> int:
        """Adds a node, and returns its position."""
        self.nodes.append(node)
        return len(self.nodes) - 1

    def channels(self, node: int) -> int:
        """Returns the number of channels of a node's result."""
        match self.nodes[node]:
            case nodes.StemNode(weights=kernel) | nodes.BinaryConvNode(signs=kernel):
                return kernel.shape[3]
            case nodes.ConcatNode(inputs=inputs):
                return sum(map(self.channels, inputs))
            case other:
                return self.channels(other.inputs[0])

    def size_of_input(self, step: recording.Step) -> tuple[int, ...] | None:
        """Returns height and width of what a step reads, () of vectors; None of images of any size."""
        (read,) = step.inputs
        return self.image_shape if read < 0 else self._steps[read].result.shape[1:-1]

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


class MisfitError(Exception):
    """A layer cannot be folded where it stands; the message goes on after the layer's name."""


def rule_of(step: recording.Step) -> Rule:
    """Returns the rule of a step's layer or function.

    Raises:
      ExportError: there is none.
    """
    kinds = type(step.operation).__mro__ if isinstance(step.operation, nnx.Module) else (step.operation,)
    for kind in kinds:
        if kind in _RULES:
            return functools.partial(_checked, _RULES[kind])
    raise ExportError(f"{step.path}: {kinds[0].__name__} has no rule for folding: add one with fold_rule")


def _checked(rule: Rule, folding: Folding, step: recording.Step, *values: Any) -> Any:
    """Applies a rule, and names the layer if it does not fit its inputs."""
    try:
        if any(isinstance(x, Flattened) for x in values) and not isinstance(step.operation, _READ_VECTORS):
            return _on_images(rule, folding, step, *values)
        return rule(folding, step, *values)
    except MisfitError as misfit:
        name = step.path or _NAMES.get(step.operation) or getattr(step.operation, "__name__", "the network")
        raise ExportError(f"{name} {misfit}") from None


# What users call of functions that are recorded under another name.
_NAMES = {
    functions.add_alike: "add",
    functions.concat_alike: "concat",
    functions.largest_of_windows: "max_pool",
    functions.mean_of_windows: "mean_pool",
    functions.mean_of_image: "global_mean",
}


def _on_images(rule: Rule, folding: Folding, step: recording.Step, *values: Any) -> Any:
    """Applies a rule to flattened images as if they were not, which is the same for functions of single numbers."""
    if isinstance(step.operation, nn.BatchNorm | nn.Shift) or step.operation is functions.concat_alike:
        raise MisfitError("stands behind flatten: put it in front, where it works on channels")
    result = rule(folding, step, *(x.value if isinstance(x, Flattened) else x for x in values))
    size = next(x.size for x in values if isinstance(x, Flattened))
    return Flattened(result, size)


_READ_VECTORS = nn.BinaryDense, nn.StemDense, nn.Classifier


def expect(value: Any, *kinds: type) -> None:
    """Raises a `MisfitError` if what a layer reads is of none of these kinds."""
    if not isinstance(value, kinds):
        raise MisfitError(
            f"reads {_WORDS[type(value)]}, but it needs {' or '.join(_WORDS[kind] for kind in kinds)}"
        )


def image_of(value: Any) -> tuple[Any, tuple[int, int]]:
    """Returns what a dense layer reads, and its height and width."""
    return value if isinstance(value, Flattened) else (value, (1, 1))


_WORDS: dict[type, str] = {
    Images: "the images",
    IntegerSums: "sums of a convolution",
    IntegerLevels: "levels of a quantizer",
    IntegerStream: "the stream (see to_stream)",
    Flattened: "a flattened image",
    Logits: "logits",
}
