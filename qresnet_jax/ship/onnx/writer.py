"""Writes an integer network as an ONNX file of standard operators, which computes the same integers.

The graph is that of `IntegerNetwork`, node by node, in the layout NCHW. The tensors between nodes are int32,
except for levels, which are float32. The results are exact for these reasons:

- Convolutions are in float32. Every sum is below 2**24 and so exact, and in onnxruntime this is 6 times as
  fast as `ConvInteger`. The sums are rounded before they become int32, since some runtimes have fast
  convolutions that are slightly inexact.
- `x >> k` is `((x + 2**62) >> k) - 2**(62 - k)` in 64 bits, because ONNX shifts only unsigned integers.
  ONNX's division rounds towards zero, so a mean makes its dividend positive in the same way.
- ONNX's `AveragePool` is in float, so a mean over windows is made of differences of cumulative sums in int64.
- Few thresholds are compared one by one; many are searched by bisection.
"""

import math
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.nodes import Node, Value
from qresnet_jax.ship.onnx import graph as onnx_graph

if TYPE_CHECKING:
    import onnx

_MAX_COMPARISONS = 63  # thresholds per channel; beyond, bisection is slower but needs fewer operators
_LAST = np.iinfo(np.int64).max  # the end of a slice that has no end
_POSITIVE = 62  # 2**62 makes every sum of a requantization positive, and int64 still holds it
_DESCRIPTION = (
    "An image classifier in integers. image: uint8 pixels as they are, [N, height, width, channel]; the network itself "
    "subtracts the mean. logits: int32, the largest is that of the class; times logit_scale they are those of training."
)


def write_onnx(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Writes a network as an ONNX file. A file that is already at `path` is replaced at once or not at all.

    The model has the input `image`, uint8 `[N, H, W, C]`, and the output `logits`, int32 `[N, classes]`, for
    any N. Its metadata has `description`, `class_names` (JSON, null for none), `logit_scale` and `mean`
    (JSON).

    Args:
      network: a network from `fold` or from a packed file.
      path: path of the file.

    Raises:
      ExportError: if the package onnx is not installed.
      UserError: if the file cannot be written.
    """
    onnx_graph.save(onnx_model(network), path)


def onnx_model(network: IntegerNetwork) -> "onnx.ModelProto":
    """Returns the model that `write_onnx` writes, with the shapes of all its tensors.

    Raises:
      ExportError: if the package onnx is not installed.
    """
    graph = onnx_graph.Graph(("N", network.height or "H", network.width or "W", network.channels))
    results: list[str] = []
    for i, node in enumerate(network.nodes):
        layer = _IntegerOperators(graph, onnx_graph.layer_name(network, i))
        known = [network.values[j] for j in node.inputs]
        results.append(layer.add(node, known, *([results[j] for j in node.inputs] or ["image"])))
    metadata = onnx_graph.metadata(network, network.logit_scale, _DESCRIPTION)
    return onnx_graph.with_shapes(graph.model(np.int32, ("N", network.classes), metadata))


class _IntegerOperators(onnx_graph.LayerOperators):
    """Adds the operators of one node."""

    def add(self, node: Node, known: Sequence[Value], x: str, *others: str) -> str:
        """Adds the operators of a node that reads x and others; `known` says what they are."""
        match node:
            case nodes.StemNode():
                return self.stem(node, x)
            case nodes.BinaryConvNode():
                return self.integer_conv(x, node.signs, node.window, node.groups)
            case nodes.ThresholdsNode():
                few = len(node.levels) - 1 <= _MAX_COMPARISONS
                return (self.comparisons if few else self.bisection)(node, self.directed(node, x))
            case nodes.RequantizeNode():
                return self.requantize(node, x)
            case nodes.AddNode():
                return self.saturate(self("Add", x, *others), np.int32)
            case nodes.ReluNode():
                return self("Relu", x)
            case nodes.ConcatNode():
                return self("Concat", x, *others, axis=1)
            case nodes.MaxPoolNode() if known[0].kind == "levels":
                return self.max_pool(x, node.window)
            case nodes.MaxPoolNode():  # in float32, because runtimes cannot pool int32
                return self.cast(self.max_pool(self.cast(x, np.float32), node.window), np.int32)
            case nodes.MeanPoolNode():
                return self.mean_pool(node, x)
            case nodes.ClassifierNode():
                weights = onnx_graph.channels_first(node.weights, known[0]).astype(np.int32)
                sums = self("MatMul", self("Flatten", x), self.constant("weights", weights))
                return self("Add", sums, self.constant("bias", node.bias), output="logits")
        raise TypeError(f"no such node: {node}")

    def stem(self, node: nodes.StemNode, image: str) -> str:
        pixels = self.cast(self("Transpose", image, perm=[0, 3, 1, 2]), np.float32)
        doubled = self("Mul", pixels, self.constant("two", np.float32(2)))
        centered = self("Sub", doubled, self.per_channel("double_mean", node.double_mean.astype(np.float32)))
        return self.integer_conv(centered, node.weights, node.window)

    def integer_conv(self, x: str, kernel: np.ndarray, window: Window, groups: int = 1) -> str:
        # Weights are stored as small integers; runtimes convert constants once, when they load the file.
        weights = self.cast(self.constant("weights", kernel.transpose(3, 2, 0, 1)), np.float32)
        return self.cast(self("Round", self.conv(x, weights, window, groups)), np.int32)

    def directed(self, node: nodes.ThresholdsNode, x: str) -> str:
        if np.all(node.direction == 1):
            return x
        return self("Mul", x, self.per_channel("direction", node.direction.astype(np.int32)))

    def comparisons(self, node: nodes.ThresholdsNode, x: str) -> str:
        """Adds up the steps between levels at all thresholds that x passes."""
        stairs = []
        for i, height in enumerate(np.diff(node.levels)):
            threshold = self.per_channel(f"threshold_{i + 1}", node.thresholds[:, i])
            stair = self.cast(self("GreaterOrEqual", x, threshold), np.float32)
            if height != 1:
                stair = self("Mul", stair, self.constant(f"height_{i + 1}", np.float32(height)))
            stairs.append(stair)
        return self("Sum", *stairs)

    def bisection(self, node: nodes.ThresholdsNode, x: str) -> str:
        """Finds how many thresholds x passes, the highest binary digit first.

        Each channel has a row of 2**digits places, and place i holds the threshold that x must reach for a
        count of i. Place 0 is never read, and the places behind the last threshold hold a number that no x
        reaches. A position counts the places of all rows.
        """
        rows, n = node.thresholds.shape
        digits = n.bit_length()
        places = np.full((rows, 2**digits), np.iinfo(np.int32).max, np.int32)
        places[:, 1 : n + 1] = node.thresholds
        levels = np.full((rows, 2**digits), node.levels[-1], np.float32)
        levels[:, : n + 1] = node.levels
        table = self.constant("thresholds", places.ravel())
        position = self.per_channel("first", np.arange(rows, dtype=np.int32) * 2**digits)
        for digit in reversed(range(digits)):
            higher = self("Add", position, self.constant(f"step_{digit}", np.int32(2**digit)))
            passed = self("GreaterOrEqual", x, self("Gather", table, higher))
            position = self("Where", passed, higher, position)
        return self("Gather", self.constant("levels", levels.ravel()), position)

    def requantize(self, node: nodes.RequantizeNode, x: str) -> str:
        multiplier = self.per_channel("multiplier", node.multiplier.astype(np.int64))
        offset = self.per_channel("offset", node.offset + 2**_POSITIVE)
        positive = self("Add", self("Mul", self.cast(x, np.int64), multiplier), offset)
        places = self.per_channel("shift", node.shift.astype(np.uint64))
        shifted = self("BitShift", self.cast(positive, np.uint64), places, direction="RIGHT")
        added = self.per_channel("added", np.int64(1) << (_POSITIVE - node.shift.astype(np.int64)))
        result = self("Sub", self.cast(shifted, np.int64), added)
        return self.cast(self.saturate(result, np.int64), np.int32)

    def saturate(self, x: str, dtype: type[np.int32] | type[np.int64]) -> str:
        low = self.constant("low", dtype(nodes.STREAM_MIN))
        return self("Clip", x, low, self.constant("high", dtype(nodes.STREAM_MAX)))

    def mean_pool(self, node: nodes.MeanPoolNode, x: str) -> str:
        """Computes `(2 * sum + count) // (2 * count)`, with `2**15 * (2 * count)` added to the dividend."""
        wide, two = self.cast(x, np.int64), self.constant("two", np.int64(2))
        if node.window is None:
            total = self("ReduceSum", wide, self.constant("axes", np.array([2, 3])))
            count = self("ReduceProd", self("Shape", x, start=2), keepdims=1)
        else:
            total = self.window_sums(wide, node.window)
            count = self.constant("count", np.int64(math.prod(node.window.size)))
        added = self("Mul", count, self.constant("added", np.int64(2**16 + 1)))
        positive = self("Add", self("Mul", total, two), added)
        quotient = self("Div", positive, self("Mul", count, two))
        return self.cast(self("Sub", quotient, self.constant("subtracted", np.int64(2**15))), np.int32)

    def window_sums(self, x: str, window: Window) -> str:
        """Sums int64 x in each window, axis by axis: the sum up to a window's end less the sum up to its start."""
        # A zero behind the last pixel of each axis, so that there is a sum up to the end of it.
        sums = self("Pad", x, self.constant("pads", np.array([0, 0, 0, 0, 0, 0, 1, 1])))
        for axis, size, stride in zip((2, 3), window.size, window.strides, strict=True):
            up_to = self("CumSum", sums, self.constant("axis", np.int64(axis)), exclusive=1)
            ends = self.sliced(up_to, axis, size, _LAST, stride)
            sums = self("Sub", ends, self.sliced(up_to, axis, 0, -size, stride))
        return sums

    def sliced(self, x: str, axis: int, start: int, end: int, step: int) -> str:
        bounds = {"start": start, "end": end, "axis": axis, "step": step}
        return self("Slice", x, *(self.constant(name, np.array([value])) for name, value in bounds.items()))
