"""The integer network: a short list of typed nodes with arrays, which every engine and every writer walks.

Each node reads the results of earlier nodes (`inputs`, their positions in the list) and makes one integer
tensor `[N, H, W, C]`, of one of these kinds. A vector is an image of one pixel.

    acc      |x| < 2**24, exact in int32 and in float32    StemNode, BinaryConvNode
    levels   0 .. 16384                                    ThresholdsNode, MaxPoolNode
    stream   int16, real value x * 2**-fraction_bits       RequantizeNode, AddNode, ReluNode, ConcatNode, MaxPoolNode,
                                                           MeanPoolNode
    logits   int32, real value x * logit_scale, [N, C]     ClassifierNode

The docstring of a node defines what it computes; `qresnet_jax.ship.reference` says the same in code. All
divisions and shifts round down, and `saturate` clips to -32768 .. 32767. Convolutions are cross-correlations,
as in JAX and PyTorch, with zeros around the image. A dense layer is a convolution whose window is the whole image.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from qresnet_jax import pixels
from qresnet_jax.quantize import exact
from qresnet_jax.ship.geometry import Extent, Window

ACC_LIMIT = exact.SUM_LIMIT  # accumulators stay below this, so that they are exact in float32 too
STREAM_MIN, STREAM_MAX = exact.STREAM_MIN, exact.STREAM_MAX
MAX_LEVEL = 2**14
MAX_SHIFT = 40
# The most pixels of a pooled window, channels of a result, and numbers in the result of one image. A small file could
# otherwise ask for any amount of memory.
MAX_POOLED, MAX_CHANNELS, MAX_NUMBERS = 2**12, 2**20, 2**28
ONE_PIXEL = Extent(1, 0)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Node:
    """A step of the computation.

    Args:
      name: the name of the module whose result the node completes (a binary convolution, a block, the stem or
        the classifier), or "".
      inputs: positions of the nodes whose results it reads.
    """

    name: str = ""
    inputs: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class StemNode(Node):
    """The first node: `acc = conv(2 * pixel - double_mean, weights)` of uint8 pixels `[N, H, W, in]`."""

    weights: np.ndarray  # int16 [kh, kw, in, out]
    double_mean: np.ndarray  # int16 [in], 0 .. `pixels.LARGEST`
    window: Window  # of the size (kh, kw)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class BinaryConvNode(Node):
    """A binary convolution: `acc = conv(levels, signs)`.

    With groups, channels are divided into so many parts in their order, and each part of the output reads only the same
    part of the input.
    """

    signs: np.ndarray  # int8 [kh, kw, in / groups, out], -1 or +1
    window: Window  # of the size (kh, kw)
    groups: int = 1


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ThresholdsNode(Node):
    """A batch norm, ReLU and quantizer in one: `levels[i]`, where i of the channel's thresholds are passed.

    A threshold is passed if `direction * x >= threshold`. The direction is -1 if gamma is negative. If gamma
    is 0, every threshold is passed by all x or by none, so the result is constant.
    """

    thresholds: np.ndarray  # int32 [C, n], ascending along n; or [1, n] if all channels have the same
    direction: np.ndarray  # int8 [C] or [1], -1 or +1
    levels: np.ndarray  # int32 [n + 1], ascending from 0


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class RequantizeNode(Node):
    """A batch norm onto the stream's grid: `saturate((x * multiplier + offset) >> shift)`, with constants per channel."""

    multiplier: np.ndarray  # int32 [C]
    offset: np.ndarray  # int64 [C], including half a unit for rounding
    shift: np.ndarray  # uint8 [C], 0 .. 40


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class AddNode(Node):
    """The sum of two streams: `saturate(a + b)`."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ReluNode(Node):
    """A ReLU: `max(x, 0)`."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ConcatNode(Node):
    """The channels of two or more streams, one after the other."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MaxPoolNode(Node):
    """The largest number in each window of levels or of a stream. The border around the image is never the largest."""

    window: Window


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class MeanPoolNode(Node):
    """The mean of the `count` pixels in each window of a stream, with halves rounded up: `(2 * sum + count) // (2 * count)`."""

    window: Window | None = None  # without padding; None for the whole image


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class ClassifierNode(Node):
    """The last node: `logits = x @ weights + bias`, of the stream's numbers in the order height, width, channel."""

    weights: np.ndarray  # int16 [height * width * channels, classes]
    bias: np.ndarray  # int32 [classes]


class Value(NamedTuple):
    """What is known about a node's result without running it."""

    kind: str  # as in the module's docstring
    channels: int
    bound: int  # |x| is at most this
    height: Extent
    width: Extent


def value_types(nodes: Sequence[Node], height: int | None = None, width: int | None = None) -> list[Value]:
    """Infers kind, channels, range and size of every node's result.

    Args:
      nodes: the nodes.
      height, width: of the images, or None for any.

    Raises:
      ValueError: if the nodes do not fit together, or if an array is not as its node's definition says.
    """
    if len(nodes) < 2 or not isinstance(nodes[0], StemNode) or not isinstance(nodes[-1], ClassifierNode):
        raise ValueError("the first node must be the stem, and the last one the classifier")
    values: list[Value] = []
    for i, node in enumerate(nodes):
        rule = _RULES.get(type(node))
        try:
            if rule is None:
                raise ValueError("no such node")
            if (i == 0) != isinstance(node, StemNode) or (i == len(nodes) - 1) != isinstance(
                node, ClassifierNode
            ):
                raise ValueError(
                    "there must be one stem, which comes first, and one classifier, which comes last"
                )
            if not all(0 <= j < i for j in node.inputs):
                raise ValueError(f"inputs {node.inputs} must be nodes before it")
            known = (
                [Extent() if size is None else Extent(size, 0) for size in (height, width)]
                if isinstance(node, StemNode)
                else (values[j] for j in node.inputs)
            )
            values.append(rule(node, *known))
            _check_memory(values[-1])
        except (TypeError, ValueError) as error:
            raise ValueError(f"node {i}, {kind(node)} {node.name!r}: {error}") from error
    return values


def _check_memory(value: Value) -> None:
    _require(value.channels <= MAX_CHANNELS, f"{value.channels:,} channels are more than {MAX_CHANNELS:,}")
    rows, columns = value.height.fixed or 1, value.width.fixed or 1  # one pixel, if images may have any size
    numbers = value.channels * rows * columns
    _require(
        numbers <= MAX_NUMBERS,
        f"{numbers:,} numbers for one image of {rows} x {columns} pixels are more than {MAX_NUMBERS:,}",
    )


def kind(node: Node) -> str:
    """Returns the name of a node's class, without "Node"."""
    return type(node).__name__.removesuffix("Node")


def _require(condition: bool | np.bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _array(x: np.ndarray, dtype: npt.DTypeLike, *shape: int | None) -> None:
    """Checks dtype and shape of an array; None stands for any size but 0."""
    fits = len(x.shape) == len(shape) and all(
        a > 0 and b in (None, a) for a, b in zip(x.shape, shape, strict=True)
    )
    _require(x.dtype == dtype and fits, f"expected {np.dtype(dtype)} {shape}, got {x.dtype} {x.shape}")


def _kernel(x: np.ndarray, dtype: npt.DTypeLike, window: Window) -> None:
    _array(x, dtype, None, None, None, None)
    window.check()
    _require(x.shape[:2] == window.size, f"kernel {x.shape} must have the size of its window, {window.size}")


def _accumulator(channels: int, bound: int, height: Extent, width: Extent) -> Value:
    _require(
        bound < ACC_LIMIT,
        f"its sums reach {bound:,}, but only sums below 2**24 are exact; use fewer activation bits",
    )
    return Value("acc", channels, bound, height, width)


def _is_kind(x: Value, *kinds: str) -> None:
    _require(x.kind in kinds, f"it needs {' or '.join(kinds)}, but its input is {x.kind}")


def _stem(node: StemNode, height: Extent, width: Extent) -> Value:
    _kernel(node.weights, np.int16, node.window)
    _array(node.double_mean, np.int16, node.weights.shape[2])
    _require(np.all((node.double_mean >= 0) & (node.double_mean <= pixels.LARGEST)), "means must be 0 to 255")
    largest = int(np.abs(node.weights.astype(np.int64)).sum((0, 1, 2)).max())
    return _accumulator(node.weights.shape[3], pixels.LARGEST * largest, *node.window.leaves(height, width))


def _binary_conv(node: BinaryConvNode, x: Value) -> Value:
    _is_kind(x, "levels")
    _kernel(node.signs, np.int8, node.window)
    *_, features, out = node.signs.shape
    _require(
        node.groups > 0 and features * node.groups == x.channels and out % node.groups == 0,
        f"kernel {node.signs.shape} with {node.groups} groups does not fit {x.channels} channels",
    )
    _require(np.all(np.abs(node.signs) == 1), "signs must be -1 or +1")
    taps = int(np.prod(node.signs.shape[:3]))
    return _accumulator(out, x.bound * taps, *node.window.leaves(x.height, x.width))


def _thresholds(node: ThresholdsNode, x: Value) -> Value:
    _is_kind(x, "acc", "stream")
    rows, n = len(node.thresholds), len(node.levels) - 1
    _array(node.thresholds, np.int32, rows, n)
    _array(node.direction, np.int8, rows)
    _array(node.levels, np.int32, n + 1)
    _require(rows in (1, x.channels), f"{rows} rows of thresholds for {x.channels} channels")
    _require(np.all(np.abs(node.direction) == 1), "directions must be -1 or +1")
    # In int64, because the difference of two int32 may not fit int32.
    ascending = np.all(np.diff(node.thresholds.astype(np.int64), axis=1) >= 0)
    ascending &= node.levels[0] == 0 and np.all(np.diff(node.levels.astype(np.int64)) > 0)
    _require(
        ascending and node.levels[-1] <= MAX_LEVEL,
        f"thresholds must ascend, and levels must ascend from 0 to {MAX_LEVEL} at most",
    )
    return x._replace(kind="levels", bound=int(node.levels[-1]))


def _requantize(node: RequantizeNode, x: Value) -> Value:
    _is_kind(x, "acc", "stream")
    for array, dtype in ((node.multiplier, np.int32), (node.offset, np.int64), (node.shift, np.uint8)):
        _array(array, dtype, x.channels)
    in_range = np.all(np.abs(node.offset.astype(np.float64)) < 2**60) and np.all(node.shift <= MAX_SHIFT)
    _require(in_range, f"offsets must be below 2**60, and shifts 0 to {MAX_SHIFT}")
    return x._replace(kind="stream", bound=-STREAM_MIN)


def _add(node: AddNode, a: Value, b: Value) -> Value:
    _is_kind(a, "stream")
    _require(a == b, f"cannot add {a} and {b}")
    return a


def _relu(node: ReluNode, x: Value) -> Value:
    _is_kind(x, "stream")
    return x


def _concat(node: ConcatNode, *inputs: Value) -> Value:
    _require(len(inputs) > 1, "it needs two or more inputs")
    for x in inputs:
        _is_kind(x, "stream")
        _require(x[3:] == inputs[0][3:], f"cannot concatenate {inputs[0]} and {x}")
    return inputs[0]._replace(channels=sum(x.channels for x in inputs))


def _max_pool(node: MaxPoolNode, x: Value) -> Value:
    _is_kind(x, "levels", "stream")
    return _pooled(x, node.window)


def _mean_pool(node: MeanPoolNode, x: Value) -> Value:
    _is_kind(x, "stream")
    if node.window is None:
        return x._replace(height=ONE_PIXEL, width=ONE_PIXEL)
    _require(node.window.padding == ((0, 0), (0, 0)), "a mean has no padding")
    return _pooled(x, node.window)


def _pooled(x: Value, window: Window) -> Value:
    window.check()
    pixels_seen = window.size[0] * window.size[1]
    _require(
        pixels_seen <= MAX_POOLED, f"a pooled window has at most {MAX_POOLED:,} pixels, got {pixels_seen:,}"
    )
    height, width = window.leaves(x.height, x.width)
    return x._replace(height=height, width=width)


def _classifier(node: ClassifierNode, x: Value) -> Value:
    _is_kind(x, "stream")
    _require(
        x.height.fixed is not None and x.width.fixed is not None,
        "it needs images of one size, or a mean over the whole image in front of it",
    )
    features = x.height.add * x.width.add * x.channels
    _array(node.weights, np.int16, features, None)
    _array(node.bias, np.int32, node.weights.shape[1])
    bound = x.bound * np.abs(node.weights.astype(np.int64)).sum(0) + np.abs(node.bias.astype(np.int64))
    _require(bound.max() < 2**31, f"its sums reach {bound.max():,}, but int32 holds less than 2**31")
    return Value("logits", node.weights.shape[1], int(bound.max()), ONE_PIXEL, ONE_PIXEL)


_RULES: dict[type[Node], Callable[..., Value]] = {
    StemNode: _stem,
    BinaryConvNode: _binary_conv,
    ThresholdsNode: _thresholds,
    RequantizeNode: _requantize,
    AddNode: _add,
    ReluNode: _relu,
    ConcatNode: _concat,
    MaxPoolNode: _max_pool,
    MeanPoolNode: _mean_pool,
    ClassifierNode: _classifier,
}
