"""Traces an `IntegerNetwork` node by node for `qresnet_jax.ship.jax.engine`.

`qresnet_jax.ship.jax.planes` says how tensors lie in memory, and computes the convolutions. XLA:CPU fuses a
producer into each of its consumers, and so computes it once per consumer. On processors each step therefore
stands in a branch of a conditional. XLA cannot know that the branch is always taken, so it computes operands
and results once and keeps them in memory. A step is a convolution with all the element-wise operations behind
it, or the packing of levels, or a pooling.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from qresnet_jax.ship import nodes
from qresnet_jax.ship.jax import integers
from qresnet_jax.ship.jax.planes import (
    Window,
    matrix_sum,
    pack_levels,
    plane_bits,
    plane_sum,
    sign_words,
    window_sum,
)
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.nodes import Node

MAX_PLANES = 8  # with more, matrix products are cheaper
_ELEMENTWISE = nodes.RequantizeNode | nodes.AddNode | nodes.ReluNode


def logits(network: IntegerNetwork, images: jax.Array, *, processor: bool) -> jax.Array:
    """Computes logits; to be traced by JAX.

    Args:
      network: the network, whose arrays become constants of the computation.
      images: uint8 `[N, H, W, C]`, N above 0.
      processor: whether to compute with bit planes in separate steps, which is best for XLA:CPU. Otherwise
        convolutions are matrix products, and XLA fuses as it likes.

    Returns:
      int32 `[N, classes]`.
    """
    trace = _Trace(network, images, processor)
    for i, node in enumerate(network.nodes):
        result = trace.apply(node)
        readers = [reader for reader in network.nodes for j in reader.inputs if j == i]
        joins_reader = len(readers) == 1 and isinstance(readers[0], _ELEMENTWISE)
        trace.results.append(result if joins_reader else trace.step(result))
    return trace.results[-1].T


class _Deferred(NamedTuple):
    """A tensor that is to be computed in the step of its reader."""

    operands: tuple[Any, ...]
    compute: Callable[..., Any]  # of the operands


def _defer(compute: Callable[..., Any], *inputs: Any) -> _Deferred:
    """Returns `compute(*inputs)` as a deferred tensor, which also computes the inputs that are deferred."""
    parts = [x if isinstance(x, _Deferred) else _Deferred((x,), lambda x: x) for x in inputs]

    def joined(*operands: Any) -> Any:
        return compute(*(part.compute(*mine) for part, mine in zip(parts, operands, strict=True)))

    return _Deferred(tuple(part.operands for part in parts), joined)


class _Trace:
    """The results so far. A `ThresholdsNode` gives a list of bit planes, or of the levels alone; others give a tensor.

    A result that only the next step reads may still be deferred.
    """

    def __init__(self, network: IntegerNetwork, images: jax.Array, processor: bool) -> None:
        self.nodes, self.images, self.processor = network.nodes, images, processor
        self.types = nodes.value_types(network.nodes)
        kernels = [node.signs for node in network.nodes if isinstance(node, nodes.BinaryConvNode)]
        widest = max(kernel.shape[1] for kernel in (network.stem.weights, *kernels))
        self.margin = (widest - 1) // 2
        # This is always true, because bytes are not negative; but XLA does not know that.
        self.always = jnp.sum(images[0, 0, 0].astype(jnp.int32)) >= 0
        self.results: list[Any] = []
        self.sizes: list[tuple[int, int]] = []  # (height, width) of each result

    def step(self, deferred: _Deferred) -> Any:
        """Computes a deferred tensor."""
        return self.call(deferred.compute, *deferred.operands)

    def call(self, compute: Callable[..., Any], *operands: Any) -> Any:
        """Returns `compute(*operands)`; on processors XLA does not fuse it with anything else."""
        if not self.processor:
            return compute(*operands)
        result = jax.eval_shape(compute, *operands)

        def never(*_: Any) -> Any:
            return jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), result)

        return lax.cond(self.always, compute, never, *operands)

    def apply(self, node: Node) -> _Deferred:
        """Returns the result of the next node."""
        inputs = [self.results[j] for j in node.inputs]
        bound = self.types[node.inputs[0]].bound if node.inputs else 0
        window = self._window(node)
        self.sizes.append((window.out_height, window.out_width))
        match node:
            case nodes.StemNode():
                return self._stem(node, window)
            case nodes.BinaryConvNode():
                return self._binary_conv(node, window, *inputs)
            case nodes.ThresholdsNode():
                return _defer(lambda x: self._encode(node, integers.levels(node, x, bound, axis=0)), *inputs)
            case nodes.RequantizeNode():
                return _defer(lambda x: integers.requantize(node, x, bound, axis=0), *inputs)
            case nodes.AddNode():
                return _defer(integers.saturating_add, *inputs)
            case nodes.ReluNode():
                return _defer(lambda x: jnp.maximum(x, 0), *inputs)
            case nodes.MaxPoolNode():
                padded = self.step(_defer(lambda x: window.phases(x, nodes.STREAM_MIN), *inputs))
                return _defer(window.max, padded)
            case nodes.MeanPoolNode():
                return _defer(lambda x: integers.mean_pool(window.pixels(x), (1, 2)), *inputs)
            case nodes.ClassifierNode():
                weights, bias = node.weights.T.astype(np.int32), node.bias[:, None]
                return _defer(lambda x: jnp.dot(weights, x) + bias, *inputs)
        raise TypeError(f"no such node: {node}")

    def _window(self, node: Node) -> Window:
        height, width = self.sizes[node.inputs[0]] if node.inputs else self.images.shape[1:3]
        kernel, stride = (1, 1), 1
        match node:
            case nodes.StemNode():
                kernel, stride = node.weights.shape[:2], node.stride
            case nodes.BinaryConvNode():
                kernel, stride = node.signs.shape[:2], node.stride
            case nodes.MaxPoolNode():
                kernel, stride = (3, 3), 2
        return Window(kernel, stride, height, width, self.margin, self.images.shape[0])

    def _stem(self, node: nodes.StemNode, window: Window) -> _Deferred:
        def padded(x: jax.Array) -> jax.Array:
            centered = 2 * x.astype(jnp.int16) - node.double_mean
            return jnp.pad(centered, ((0, 0), *window.padding, (0, 0)))

        def transposed(x: jax.Array) -> tuple[jax.Array, ...]:
            return window.split(x.transpose(3, 1, 2, 0).astype(jnp.float32))

        dtype = self._accumulator()
        # These are two steps, because one step for both is three times slower.
        phases = self.step(_defer(transposed, self.step(_defer(padded, self.images))))
        weights = node.weights.astype(np.float32)
        if self.processor:
            weights = weights.transpose(2, 0, 1, 3)
            return _defer(
                lambda x: window_sum(window, x, weights, jnp.multiply, self.call).astype(dtype), phases
            )
        return _defer(lambda x: matrix_sum(window, x, weights).astype(dtype), phases)

    def _encode(self, node: nodes.ThresholdsNode, levels: jax.Array) -> Sequence[jax.Array]:
        """Returns levels in the form that `_binary_conv` reads."""
        bits = plane_bits(node.levels)
        if self.processor and len(bits) <= MAX_PLANES:
            return pack_levels(levels, bits)
        is_exact = np.all(node.levels.astype(jnp.bfloat16).astype(np.int32) == node.levels)
        return [levels.astype(jnp.bfloat16 if is_exact and not self.processor else jnp.float32)]

    def _binary_conv(
        self, node: nodes.BinaryConvNode, window: Window, encoded: Sequence[jax.Array]
    ) -> _Deferred:
        dtype = self._accumulator()
        padded = self.step(_defer(lambda planes: [window.phases(plane) for plane in planes], encoded))
        if encoded[0].dtype != jnp.uint16:
            return _defer(lambda x: matrix_sum(window, x[0], node.signs).astype(dtype), padded)
        source = self.nodes[node.inputs[0]]
        assert isinstance(source, nodes.ThresholdsNode)  # nothing else makes levels
        bits, signs = plane_bits(source.levels), sign_words(node.signs)
        every_bit = np.full((*signs.shape[:3], 1), 2**16 - 1, np.uint16)
        total = self.step(_defer(lambda x: plane_sum(window, x, every_bit, bits, dtype, self.call), padded))
        return _defer(
            lambda x, total: 2 * plane_sum(window, x, signs, bits, dtype, self.call) - total, padded, total
        )

    def _accumulator(self) -> DTypeLike:
        """Returns the dtype of the accumulator that is being computed."""
        return jnp.int16 if self.types[len(self.results)].bound <= nodes.STREAM_MAX else jnp.int32
