"""Computes convolutions in JAX as sums over shifted images, which XLA turns into full vectors on processors.

A tensor is `[C, L]` with `L = H * pitch * N`, where the batch is the fastest index. Rows of pixels follow one
another, each with `pitch - W` unused columns behind it, at least as many as half a kernel is wide. A tap of a
convolution is then one contiguous slice of the padded image, so vectors are full even if image and batch are
small.

Levels are bit planes of uint16, with one word for 16 channels. With `level = sum_k 2**k * b_k` and weights
`2 * w - 1`, where w is a bit,

    conv(levels, signs) = sum_k 2**k * (2 * popcount(b_k & w) - popcount(b_k))

summed over taps and words. The second term is the same for all output channels, and zeros around the image
add nothing.
"""

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import DTypeLike

WORD = 16  # channels in a word of a bit plane
MAX_TERMS = 144  # products that are unrolled into one loop body; with 288, XLA no longer uses vectors


class Window(NamedTuple):
    """The way in which a convolution reads an image: its kernel, its stride, and the sizes before and after."""

    kernel: tuple[int, int]
    stride: int
    height: int  # of the input
    width: int
    margin: int  # pitch - width
    batch: int

    @property
    def out_height(self) -> int:
        """Returns the number of rows of the output."""
        return -(-self.height // self.stride)

    @property
    def out_width(self) -> int:
        """Returns the number of columns of the output."""
        return -(-self.width // self.stride)

    @property
    def pitch(self) -> int:
        """Returns the distance of two rows of the output, in pixels."""
        return self.out_width + self.margin

    @property
    def length(self) -> int:
        """Returns the L of the output."""
        return self.out_height * self.pitch * self.batch

    def pixels(self, x: jax.Array) -> jax.Array:
        """Returns the input `[C, L]` as `[C, H, W, N]`."""
        return x.reshape(len(x), self.height, -1, self.batch)[:, :, : self.width]

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the rows to add above and below the input, and the columns to add to its left and right."""
        s = self.stride
        top, left = ((size - 1) // 2 for size in self.kernel)
        # The last slices end a few columns behind the last row.
        beyond = -(-((self.kernel[1] - 1) // s) // self.pitch)
        rows = self.out_height + (self.kernel[0] - 1) // s + beyond
        return (top, s * rows - self.height - top), (left, s * self.pitch - self.width - left)

    def phases(self, x: jax.Array, border: int = 0) -> tuple[jax.Array, ...]:
        """Adds a border around each image of the input `[C, L]`, and splits it into its phases; see `split`."""
        return self.split(jnp.pad(self.pixels(x), ((0, 0), *self.padding, (0, 0)), constant_values=border))

    def split(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Splits a padded input `[C, _, _, N]` into phases: the pixels at rows r and columns c modulo the stride.

        Returns:
          A phase `[C, _]` for each (r, c) that the kernel reads.
        """
        s = self.stride
        x = x.reshape(len(x), -1, s, self.pitch, s, self.batch)
        return tuple(
            x[:, :, r, :, c].reshape(len(x), -1)
            for r in range(min(s, self.kernel[0]))
            for c in range(min(s, self.kernel[1]))
        )

    def taps(self) -> Iterator[tuple[int, int, int, int]]:
        """Yields `(i, j, phase, offset)` for each tap of the kernel: its phase, and where its slice begins in it."""
        s, columns = self.stride, min(self.stride, self.kernel[1])
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                yield i, j, i % s * columns + j % s, (i // s * self.pitch + j // s) * self.batch

    def max(self, phases: tuple[jax.Array, ...]) -> jax.Array:
        """Returns the largest of the pixels in each window, `[C, L]`."""
        taps = [phases[phase][:, offset : offset + self.length] for _, _, phase, offset in self.taps()]
        return functools.reduce(jnp.maximum, taps)


def window_sum(
    window: Window,
    phases: tuple[jax.Array, ...],
    weights: jax.Array | np.ndarray,
    product: Callable[[jax.Array, jax.Array], jax.Array],
    apart: Callable[..., Any],
    max_terms: int = MAX_TERMS,
) -> jax.Array:
    """Sums `product(pixels, weights)` over taps and input channels.

    Args:
      window: the way in which the image is read.
      phases: the input from `window.phases`, each `[G, _]`.
      weights: `[G, kh, kw, out]`.
      product: a function of pixels `[1, L]` and weights `[out, 1]`.
      apart: a function for which `apart(f, *x)` is `f(*x)` with operands that lie in memory. The parts of a
        loop are computed by it, because XLA:CPU does not use vectors for slices whose place depends on the
        loop's index.
      max_terms: how many products are unrolled; if there are more, a loop runs over the input channels.

    Returns:
      `[out, L]`, of the dtype that `product` returns.
    """
    groups, kh, kw, _ = weights.shape
    taps = list(window.taps())

    def part(phases: Sequence[jax.Array], weights: Any) -> jax.Array:
        terms = []
        for g in range(len(weights)):
            for i, j, phase, offset in taps:
                pixels = lax.slice(phases[phase], (g, offset), (g + 1, offset + window.length))
                terms.append(product(pixels, weights[g, i, j][:, None]))
        return sum(terms[1:], terms[0])

    chunk = max(1, max_terms // (kh * kw))
    if groups <= chunk:
        return part(phases, weights)
    looped = groups // chunk * chunk

    def step(index: jax.Array, total: jax.Array) -> jax.Array:
        first = index * chunk
        cut = [lax.dynamic_slice_in_dim(x, first, chunk) for x in phases]
        return apart(
            lambda total, *x: total + part(*x),
            total,
            cut,
            lax.dynamic_slice_in_dim(jnp.asarray(weights), first, chunk),
        )

    shape = jax.eval_shape(lambda *x: part(x, weights[:1]), *phases)
    total = lax.fori_loop(0, looped // chunk, step, jnp.zeros(shape.shape, shape.dtype))
    if looped == groups:
        return total
    return total + part([x[looped:] for x in phases], weights[looped:])


def matrix_sum(window: Window, phases: tuple[jax.Array, ...], weights: jax.Array | np.ndarray) -> jax.Array:
    """Sums products of pixels and weights over taps and input channels, by one matrix product for each tap.

    It does not use a convolution, for which libraries may choose algorithms whose intermediate results are
    not integers.

    Args:
      window: the way in which the image is read.
      phases: the input from `window.phases`, float, each `[C, _]`.
      weights: `[kh, kw, C, out]`, numbers that are exact in the dtype of the phases.

    Returns:
      float32 `[out, L]`.
    """
    total = jnp.zeros((weights.shape[3], window.length), jnp.float32)
    for i, j, phase, offset in window.taps():
        x = phases[phase][:, offset : offset + window.length]
        total += lax.dot(
            jnp.asarray(weights[i, j].T, x.dtype),
            x,
            precision=lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
    return total


# Bit planes.


def plane_bits(levels: Sequence[int]) -> list[int]:
    """Returns the numbers of the bits that are set in any of the levels, from the lowest."""
    present = functools.reduce(operator.or_, levels)
    return [k for k in range(present.bit_length()) if present >> k & 1]


def pack_levels(levels: jax.Array, bits: list[int]) -> tuple[jax.Array, ...]:
    """Packs levels, int16 `[C, L]`, into a bit plane for each of `bits`.

    Returns:
      The planes, each uint16 `[ceil(C / 16), L]`, with the first channel in the lowest bit.
    """
    channels, length = levels.shape
    levels = levels.astype(jnp.uint16)
    groups = -(-channels // WORD)
    levels = jnp.pad(levels, ((0, groups * WORD - channels), (0, 0))).reshape(groups, WORD, length)

    def plane(bit: int) -> jax.Array:
        words = [(levels[:, c] >> bit & 1) << c for c in range(min(WORD, channels))]
        while len(words) > 1:
            others: list[Any] = [*words[1::2], *[0] * (len(words) % 2)]
            words = [a | b for a, b in zip(words[::2], others, strict=True)]
        return words[0]

    return tuple(plane(bit) for bit in bits)


def sign_words(signs: np.ndarray) -> np.ndarray:
    """Packs signs, int8 `[kh, kw, C, out]`, into words.

    Returns:
      uint16 `[ceil(C / 16), kh, kw, out]`. A bit is set for +1, and the first channel is in the lowest bit.
    """
    kh, kw, channels, out = signs.shape
    positive = np.pad(signs > 0, ((0, 0), (0, 0), (0, -channels % WORD), (0, 0)))
    positive = positive.reshape(kh, kw, -1, WORD, out)
    words = (positive.astype(np.uint32) << np.arange(WORD, dtype=np.uint32)[:, None]).sum(3)
    return words.astype(np.uint16).transpose(2, 0, 1, 3)


def plane_sum(
    window: Window,
    planes: list[tuple[jax.Array, ...]],
    weights: jax.Array | np.ndarray,
    bits: list[int],
    dtype: DTypeLike,
    apart: Callable[..., Any],
) -> jax.Array:
    """Sums `sum_k 2**k * popcount(b_k & weights)` over taps and words.

    Args:
      window: the way in which the image is read.
      planes: for each bit the phases of its plane, uint16 `[G, _]`.
      weights: uint16 `[G, kh, kw, out]`.
      bits: the k of each plane.
      dtype: dtype of the result, int16 or int32. The sums may wrap around, but they are exact modulo 2**16 or 2**32.
      apart: see `window_sum`.

    Returns:
      dtype `[out, L]`.
    """
    groups, kh, kw, _ = weights.shape
    count_dtype = jnp.uint16 if groups * WORD * kh * kw < 2**16 else jnp.uint32

    def and_count(pixels: jax.Array, weights: jax.Array | np.ndarray) -> jax.Array:
        return lax.population_count(pixels & weights).astype(count_dtype)

    max_terms = MAX_TERMS // len(planes)
    counts = [window_sum(window, phases, weights, and_count, apart, max_terms) for phases in planes]
    shifted = [count.astype(dtype) << k for k, count in zip(bits, counts, strict=True)]
    return sum(shifted[1:], shifted[0])
