"""Traces the program of an `IntegerNetwork` step by step for `qresnet_jax.ship.jax.engine`.

`qresnet_jax.ship.jax.planes` says how tensors lie in memory, and computes the convolutions. XLA:CPU fuses a
producer into each of its consumers, and so computes it once per consumer. On processors each step therefore
stands in a branch of a conditional. XLA cannot know that the branch is always taken, so it computes operands
and results once and keeps them in memory. A step is a convolution with all the element-wise operations behind
it, or the packing of levels, a pooling, or a concatenation.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.jax import integers
from qresnet_jax.ship.jax.integers import Array
from qresnet_jax.ship.jax.lower import Classifier, Constants, Program, Signs, Stem, Step
from qresnet_jax.ship.jax.planes import (
    WORD,
    Reading,
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
        readers = trace.readers(i)
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


def _in_groups(groups: int, compute: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that computes each group of channels, the first axis of all operands and results, apart."""
    if groups == 1:
        return compute

    def run(*operands: Any) -> Any:
        parts = jax.tree.map(lambda x: x.reshape(groups, -1, *x.shape[1:]), operands)
        return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), jax.vmap(compute)(*parts))

    return run


class _Levels(NamedTuple):
    """Levels in the forms that their readers want."""

    planes: tuple[jax.Array, ...]  # from `pack_levels`, or none
    values: jax.Array | None  # int16 [C, L]


class _Trace:
    """The results so far. Levels are `_Levels`, all others tensors.

    A result that only the next step reads may still be deferred.
    """

    def __init__(self, steps: tuple[Step, ...], images: jax.Array, processor: bool) -> None:
        self.steps, self.images, self.processor = steps, images, processor
        self.margin = max(max(step.window.padding[1]) for step in steps if step.window)
        # This is always true, because bytes are not negative; but XLA does not know that.
        self.always = jnp.sum(images[0, 0, 0].astype(jnp.int32)) >= 0
        self.results: list[Any] = []
        self.sizes: list[tuple[int, int]] = []  # (height, width) of each result

    def readers(self, i: int) -> list[Step]:
        """Returns the steps that read the result of step i, each as often as it does."""
        return [reader for reader in self.steps for j in reader.inputs if j == i]

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
        reading = self._reading(step)
        self.sizes.append(reading.out_size)
        match constants:
            case Stem():
                return self._stem(step, constants, reading)
            case Signs():
                return self._binary_conv(step, constants, reading, *inputs)
            case integers.Thresholds():
                levels = _defer(lambda x: integers.levels(step.levels, constants, x, axis=0), *inputs)
                return self._encoded(step, levels)
            case integers.Whole() | integers.Split() | integers.Wide():
                return _defer(lambda x: integers.requantize(constants, x, axis=0), *inputs)
            case Classifier():
                features = _defer(lambda x: reading.pixels(x).reshape(-1, reading.batch), *inputs)
                return _defer(lambda x: jnp.dot(constants.weights, x) + constants.bias, features)
        if step.kind is nodes.AddNode:
            return _defer(lambda *x: integers.saturating_add(*reading.aligned(x)), *inputs)
        if step.kind is nodes.ReluNode:
            return _defer(lambda x: jnp.maximum(x, 0), *inputs)
        if step.kind is nodes.ConcatNode:
            return _defer(lambda *x: jnp.concatenate(reading.aligned(x)), *inputs)
        if step.kind is nodes.MaxPoolNode and step.levels:
            return self._encoded(step, self._max_pool(reading, inputs[0].values))
        if step.kind is nodes.MaxPoolNode:
            return self._max_pool(reading, *inputs)
        if step.kind is nodes.MeanPoolNode:
            means = _defer(lambda x: integers.mean_pool(reading.pixels(x), reading.window), *inputs)
            return _defer(lambda x: x.reshape(len(x), -1), means)
        raise TypeError(f"no such node: {step.kind.__name__}")

    def _reading(self, step: Step) -> Reading:
        batch, *size, _ = self.images.shape
        height, width = self.sizes[step.inputs[0]] if step.inputs else size
        return Reading(step.window or Window((height, width)), height, width, self.margin, batch)

    def _stem(self, step: Step, constants: Stem, reading: Reading) -> _Deferred:
        def padded(x: jax.Array) -> jax.Array:
            centered = 2 * x.astype(jnp.int16) - constants.double_mean
            return jnp.pad(centered, ((0, 0), *reading.padding, (0, 0)))

        def transposed(x: jax.Array) -> tuple[jax.Array, ...]:
            return reading.split(x.transpose(3, 1, 2, 0).astype(jnp.float32))

        dtype, weights = _accumulator(step), jnp.asarray(constants.weights)
        # These are two steps, because one step for both is three times slower.
        phases = self.step(_defer(transposed, self.step(_defer(padded, self.images))))
        if self.processor:
            return _defer(
                lambda x: window_sum(reading, x, weights, jnp.multiply, self.call).astype(dtype), phases
            )
        return _defer(lambda x: matrix_sum(reading, x, weights).astype(dtype), phases)

    def _max_pool(self, reading: Reading, x: Any) -> _Deferred:
        if reading.is_whole:
            return _defer(lambda x: jnp.max(reading.pixels(x), (1, 2)), x)
        return _defer(reading.max, self.step(_defer(lambda x: reading.phases(x, nodes.STREAM_MIN), x)))

    def _encoded(self, step: Step, levels: _Deferred) -> _Deferred:
        """Returns levels, int16 `[C, L]`, which are the result of the next step, as `_Levels`."""
        bits, readers = plane_bits(step.levels), self.readers(len(self.results))

        def encode(values: jax.Array) -> _Levels:
            read_planes = [self._reads_planes(reader, bits, len(values)) for reader in readers]
            planes = pack_levels(values, bits) if any(read_planes) else ()
            return _Levels(planes, None if all(read_planes) else values)

        return _defer(encode, levels)

    def _reads_planes(self, step: Step, bits: list[int], channels: int) -> bool:
        """Returns whether a step counts the bits of its input, which has so many channels."""
        has_whole_words = step.groups == 1 or channels // step.groups % WORD == 0
        is_cheap = len(bits) <= MAX_PLANES and has_whole_words
        return self.processor and step.kind is nodes.BinaryConvNode and is_cheap

    def _binary_conv(self, step: Step, constants: Signs, reading: Reading, levels: _Levels) -> _Deferred:
        before, dtype = self.steps[step.inputs[0]].levels, _accumulator(step)
        bits = plane_bits(before)
        if self._reads_planes(step, bits, len(constants.signs)):
            return self._count_bits(step, constants.words, reading, levels.planes, bits)
        # Processors are slow at many small matrix products.
        multiplies = self.processor and step.groups > 1
        padded = self._padded(reading, levels.values, dtype if multiplies else self._matrix_dtype(before))

        def convolve(x: Any, signs: Any) -> jax.Array:
            if multiplies:
                return window_sum(reading, x, signs.astype(dtype), jnp.multiply, self.call)
            return matrix_sum(reading, x, signs).astype(dtype)

        return _defer(lambda x: _in_groups(step.groups, convolve)(x, constants.signs), padded)

    def _count_bits(
        self, step: Step, words: Array, reading: Reading, planes: Any, bits: list[int]
    ) -> _Deferred:
        def count(x: Any, words: Any) -> jax.Array:
            return plane_sum(reading, x, words, bits, _accumulator(step), self.call)

        every_bit = np.full((*words.shape[:3], 1), 2**16 - 1, np.uint16)
        padded = self._padded(reading, planes, jnp.uint16)
        total = self.step(_defer(lambda x: _in_groups(step.groups, count)(x, every_bit), padded))
        sums = _in_groups(step.groups, lambda x, words, total: 2 * count(x, words) - total)
        return _defer(lambda x, total: sums(x, words, total), padded, total)

    def _padded(self, reading: Reading, x: Any, dtype: DTypeLike) -> Any:
        """Returns the phases of the tensors in x, which have that dtype."""
        return self.step(_defer(lambda x: jax.tree.map(lambda x: reading.phases(x.astype(dtype)), x), x))

    def _matrix_dtype(self, levels: Sequence[int]) -> DTypeLike:
        """Returns the cheapest dtype of the device's matrix products that holds the levels exactly."""
        numbers = np.array(levels)
        are_exact = np.all(numbers.astype(jnp.bfloat16) == numbers)
        return jnp.bfloat16 if are_exact and not self.processor else jnp.float32


def _accumulator(step: Step) -> DTypeLike:
    """Returns the dtype of the sums of a step."""
    return jnp.int16 if step.bound <= nodes.STREAM_MAX else jnp.int32
