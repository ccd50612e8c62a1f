"""Computes convolutions in JAX as sums over shifted images, which XLA turns into full vectors on processors.

A tensor is `[C, L]` with `L = H * pitch * N`, where the batch is the fastest index. Rows of pixels follow one
another, each with `pitch - W` unused columns behind it, as many as the convolution before it needed, or more. A
tap of a convolution is then one contiguous slice of the padded image, so vectors are full even if image and
batch are small. A convolution whose window is the whole image has one tap, for which all pixels are channels.

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

from qresnet_jax.ship.geometry import Extent, Window

WORD = 16  # channels in a word of a bit plane
MAX_TERMS = 144  # products that are unrolled into one loop body; with 288, XLA no longer uses vectors


class Reading(NamedTuple):
    """The way in which a window reads images whose tensor is `[C, L]`."""

    window: Window
    height: int  # of the images
    width: int
    margin: int  # the least number of unused columns behind each row of the result
    batch: int

    @property
    def is_whole(self) -> bool:
        """Returns whether the window is the whole image, without a border."""
        return self.window == Window((self.height, self.width), self.window.strides)

    @property
    def out_size(self) -> tuple[int, int]:
        """Returns the height and width of the result."""
        rows, columns = self.window.leaves(Extent(self.height, 0), Extent(self.width, 0))
        return rows.add, columns.add

    @property
    def pitch(self) -> int:
        """Returns the distance of two rows of the result, in pixels."""
        if self.is_whole:
            return 1
        # A row of the padded image ends with the unused columns, which are a border for the next row, too.
        needed = -(-(self.width + max(self.window.padding[1])) // self.window.strides[1])
        return max(self.out_size[1] + self.margin, needed)

    @property
    def length(self) -> int:
        """Returns the L of the result."""
        return self.out_size[0] * self.pitch * self.batch

    def pixels(self, x: jax.Array) -> jax.Array:
        """Returns images `[C, L]` as `[C, H, W, N]`."""
        return x.reshape(len(x), self.height, -1, self.batch)[:, :, : self.width]

    @property
    def padding(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the rows to add above and below the images, and the columns to add to their left and right."""
        if self.is_whole:
            return (0, 0), (0, 0)
        (kh, kw), (down, right) = self.window.size, self.window.strides
        (top, _), (left, _) = self.window.padding
        # The last slices end a few columns behind the last row.
        beyond = -(-((kw - 1) // right) // self.pitch)
        rows = max(self.out_size[0] + (kh - 1) // down + beyond, -(-(self.height + top) // down))
        return (top, down * rows - self.height - top), (left, right * self.pitch - self.width - left)

    def phases(self, x: jax.Array, border: int = 0) -> tuple[jax.Array, ...]:
        """Adds a border around each of the images `[C, L]`, and splits them into phases; see `split`."""
        return self.split(jnp.pad(self.pixels(x), ((0, 0), *self.padding, (0, 0)), constant_values=border))

    def split(self, x: jax.Array) -> tuple[jax.Array, ...]:
        """Splits padded images `[C, _, _, N]` into phases: the pixels at rows r and columns c modulo the strides.

        Returns:
          A phase `[C, _]` for each (r, c) that the window reads. If it is the whole image, all pixels are channels of
          a single phase `[C * H * W, N]`.
        """
        if self.is_whole:
            return (x.reshape(-1, self.batch),)
        (kh, kw), (down, right) = self.window.size, self.window.strides
        x = x.reshape(len(x), -1, down, self.pitch, right, self.batch)
        return tuple(
            x[:, :, r, :, c].reshape(len(x), -1) for r in range(min(down, kh)) for c in range(min(right, kw))
        )

    def weights(self, weights: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
        """Returns weights `[C, kh, kw, out]` for the channels and taps of the phases."""
        return weights.reshape(-1, 1, 1, weights.shape[3]) if self.is_whole else weights

    def taps(self) -> Iterator[tuple[int, int, int, int]]:
        """Yields `(i, j, phase, offset)` for each tap of the weights: its phase, and where its slice begins in it."""
        (kh, kw), (down, right) = (1, 1) if self.is_whole else self.window.size, self.window.strides
        columns = min(right, kw)
        for i in range(kh):
            for j in range(kw):
                yield (
                    i,
                    j,
                    i % down * columns + j % right,
                    (i // down * self.pitch + j // right) * self.batch,
                )

    def aligned(self, images: Sequence[jax.Array]) -> Sequence[jax.Array]:
        """Returns several images `[C, L]` with rows of one pitch."""
        if all(x.shape == images[0].shape for x in images):
            return images
        return [self.pixels(x).reshape(len(x), -1) for x in images]

    def max(self, phases: tuple[jax.Array, ...]) -> jax.Array:
        """Returns the largest of the pixels in each window, `[C, L]`."""
        taps = [phases[phase][:, offset : offset + self.length] for _, _, phase, offset in self.taps()]
        return functools.reduce(jnp.maximum, taps)


def window_sum(
    reading: Reading,
    phases: tuple[jax.Array, ...],
    weights: jax.Array | np.ndarray,
    product: Callable[[jax.Array, jax.Array], jax.Array],
    apart: Callable[..., Any],
    max_terms: int = MAX_TERMS,
) -> jax.Array:
    """Sums `product(pixels, weights)` over taps and input channels.

    Args:
      reading: the way in which the images are read.
      phases: the input from `reading.phases`, each `[G, _]`.
      weights: `[G, kh, kw, out]`.
      product: a function of pixels `[1, L]` and weights `[out, 1]`.
      apart: a function for which `apart(f, *x)` is `f(*x)` with operands that lie in memory. The parts of a
        loop are computed by it, because XLA:CPU does not use vectors for slices whose place depends on the
        loop's index.
      max_terms: how many products are unrolled; if there are more, a loop runs over the input channels.

    Returns:
      `[out, L]`, of the dtype that `product` returns.
    """
    weights = reading.weights(weights)
    channels, kh, kw, _ = weights.shape
    taps = list(reading.taps())

    def part(phases: Sequence[jax.Array], weights: Any) -> jax.Array:
        terms = []
        for g in range(len(weights)):
            for i, j, phase, offset in taps:
                pixels = lax.slice(phases[phase], (g, offset), (g + 1, offset + reading.length))
                terms.append(product(pixels, weights[g, i, j][:, None]))
        return sum(terms[1:], terms[0])

    chunk = max(1, max_terms // (kh * kw))
    if channels <= chunk:
        return part(phases, weights)
    looped = channels // chunk * chunk

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
    if looped == channels:
        return total
    return total + part([x[looped:] for x in phases], weights[looped:])


def matrix_sum(reading: Reading, phases: tuple[jax.Array, ...], weights: jax.Array | np.ndarray) -> jax.Array:
    """Sums products of pixels and weights over taps and input channels, by one matrix product for each tap.

    It does not use a convolution, for which libraries may choose algorithms whose intermediate results are
    not integers.

    Args:
      reading: the way in which the images are read.
      phases: the input from `reading.phases`, float, each `[C, _]`.
      weights: `[C, kh, kw, out]`, numbers that are exact in the dtype of the phases.

    Returns:
      float32 `[out, L]`.
    """
    weights = reading.weights(weights)
    total = jnp.zeros((weights.shape[3], reading.length), jnp.float32)
    for i, j, phase, offset in reading.taps():
        x = phases[phase][:, offset : offset + reading.length]
        total += lax.dot(
            jnp.asarray(weights[:, i, j].T, x.dtype),
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
    """Packs signs, int8 `[C, kh, kw, out]`, into words.

    Returns:
      uint16 `[ceil(C / 16), kh, kw, out]`. A bit is set for +1, and the first channel is in the lowest bit.
    """
    positive = np.pad(signs > 0, ((0, -len(signs) % WORD), (0, 0), (0, 0), (0, 0)))
    positive = positive.reshape(-1, WORD, *signs.shape[1:]).astype(np.uint16)
    places = np.arange(WORD, dtype=np.uint16)[:, None, None, None]
    return (positive << places).sum(1, dtype=np.uint16)


def plane_sum(
    reading: Reading,
    planes: list[tuple[jax.Array, ...]],
    weights: jax.Array | np.ndarray,
    bits: list[int],
    dtype: DTypeLike,
    apart: Callable[..., Any],
) -> jax.Array:
    """Sums `sum_k 2**k * popcount(b_k & weights)` over taps and words.

    Args:
      reading: the way in which the images are read.
      planes: for each bit the phases of its plane, uint16 `[G, _]`.
      weights: uint16 `[G, kh, kw, out]`.
      bits: the k of each plane.
      dtype: dtype of the result, int16 or int32. The sums may wrap around, but they are exact modulo 2**16 or 2**32.
      apart: see `window_sum`.

    Returns:
      dtype `[out, L]`.
    """
    words, kh, kw, _ = weights.shape
    count_dtype = jnp.uint16 if words * WORD * kh * kw < 2**16 else jnp.uint32

    def and_count(pixels: jax.Array, weights: jax.Array | np.ndarray) -> jax.Array:
        return lax.population_count(pixels & weights).astype(count_dtype)

    max_terms = MAX_TERMS // len(planes)
    counts = [window_sum(reading, phases, weights, and_count, apart, max_terms) for phases in planes]
    shifted = [count.astype(dtype) << k for k, count in zip(bits, counts, strict=True)]
    return sum(shifted[1:], shifted[0])
