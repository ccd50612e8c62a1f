"""Traces the program of an `IntegerNetwork` step by step for `qresnet_jax.ship.jax.engine`.

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
from qresnet_jax.ship.jax.lower import Classifier, Constants, Program, Signs, Stem, Step
from qresnet_jax.ship.jax.planes import (
    Window,
    matrix_sum,
    pack_levels,
    plane_bits,
    plane_sum,
    window_sum,
)

MAX_PLANES = 8  # with more, matrix products are cheaper
_ELEMENTWISE = nodes.RequantizeNode, nodes.AddNode, nodes.ReluNode


def logits(
    program: Program, constants: Sequence[Constants], images: jax.Array, *, processor: bool
) -> jax.Array:
    """Computes logits; to be traced by JAX.

    Args:
      program, constants: from `qresnet_jax.ship.jax.lower.lower`.
      images: uint8 `[N, H, W, C]`, N above 0.
      processor: whether to compute with bit planes in separate steps, which is best for XLA:CPU. Otherwise
        convolutions are matrix products, and XLA fuses as it likes.

    Returns:
      int32 `[N, classes]`.
    """
    trace = _Trace(program.steps, images, processor)
    for i, (step, its_constants) in enumerate(zip(program.steps, constants, strict=True)):
        result = trace.apply(step, its_constants)
        readers = [reader for reader in program.steps for j in reader.inputs if j == i]
        joins_reader = len(readers) == 1 and readers[0].kind in _ELEMENTWISE
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

    def __init__(self, steps: tuple[Step, ...], images: jax.Array, processor: bool) -> None:
        self.steps, self.images, self.processor = steps, images, processor
        widest = max(step.kernel[1] for step in steps if step.kind in (nodes.StemNode, nodes.BinaryConvNode))
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

    def apply(self, step: Step, constants: Constants) -> _Deferred:
        """Returns the result of the next step of the program."""
        inputs = [self.results[j] for j in step.inputs]
        window = self._window(step)
        self.sizes.append((window.out_height, window.out_width))
        match constants:
            case Stem():
                return self._stem(step, constants, window)
            case Signs():
                return self._binary_conv(step, constants, window, *inputs)
            case integers.Thresholds():
                return _defer(
                    lambda x: self._encode(step, integers.levels(step.levels, constants, x, axis=0)), *inputs
                )
            case integers.Whole() | integers.Split() | integers.Wide():
                return _defer(lambda x: integers.requantize(constants, x, axis=0), *inputs)
            case Classifier():
                return _defer(lambda x: jnp.dot(constants.weights, x) + constants.bias, *inputs)
        if step.kind is nodes.AddNode:
            return _defer(integers.saturating_add, *inputs)
        if step.kind is nodes.ReluNode:
            return _defer(lambda x: jnp.maximum(x, 0), *inputs)
        if step.kind is nodes.MaxPoolNode:
            padded = self.step(_defer(lambda x: window.phases(x, nodes.STREAM_MIN), *inputs))
            return _defer(window.max, padded)
        if step.kind is nodes.MeanPoolNode:
            return _defer(lambda x: integers.mean_pool(window.pixels(x), (1, 2)), *inputs)
        raise TypeError(f"no such node: {step.kind.__name__}")

    def _window(self, step: Step) -> Window:
        height, width = self.sizes[step.inputs[0]] if step.inputs else self.images.shape[1:3]
        return Window(step.kernel, step.stride, height, width, self.margin, self.images.shape[0])

    def _stem(self, step: Step, constants: Stem, window: Window) -> _Deferred:
        def padded(x: jax.Array) -> jax.Array:
            centered = 2 * x.astype(jnp.int16) - constants.double_mean
            return jnp.pad(centered, ((0, 0), *window.padding, (0, 0)))

        def transposed(x: jax.Array) -> tuple[jax.Array, ...]:
            return window.split(x.transpose(3, 1, 2, 0).astype(jnp.float32))

        dtype, weights = _accumulator(step), jnp.asarray(constants.weights)
        # These are two steps, because one step for both is three times slower.
        phases = self.step(_defer(transposed, self.step(_defer(padded, self.images))))
        if self.processor:
            weights = weights.transpose(2, 0, 1, 3)
            return _defer(
                lambda x: window_sum(window, x, weights, jnp.multiply, self.call).astype(dtype), phases
            )
        return _defer(lambda x: matrix_sum(window, x, weights).astype(dtype), phases)

    def _encode(self, step: Step, levels: jax.Array) -> Sequence[jax.Array]:
        """Returns levels in the form that `_binary_conv` reads."""
        bits = plane_bits(step.levels)
        if self.processor and len(bits) <= MAX_PLANES:
            return pack_levels(levels, bits)
        values = np.array(step.levels)
        are_exact = np.all(values.astype(jnp.bfloat16) == values)
        return [levels.astype(jnp.bfloat16 if are_exact and not self.processor else jnp.float32)]

    def _binary_conv(
        self, step: Step, constants: Signs, window: Window, encoded: Sequence[jax.Array]
    ) -> _Deferred:
        dtype = _accumulator(step)
        padded = self.step(_defer(lambda planes: [window.phases(plane) for plane in planes], encoded))
        if encoded[0].dtype != jnp.uint16:
            return _defer(lambda x: matrix_sum(window, x[0], constants.signs).astype(dtype), padded)
        bits, signs = plane_bits(self.steps[step.inputs[0]].levels), constants.words
        every_bit = np.full((*signs.shape[:3], 1), 2**16 - 1, np.uint16)
        total = self.step(_defer(lambda x: plane_sum(window, x, every_bit, bits, dtype, self.call), padded))
        return _defer(
            lambda x, total: 2 * plane_sum(window, x, signs, bits, dtype, self.call) - total, padded, total
        )


def _accumulator(step: Step) -> DTypeLike:
    """Returns the dtype of the sums of a step."""
    return jnp.int16 if step.bound <= nodes.STREAM_MAX else jnp.int32
