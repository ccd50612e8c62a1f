"""Says which copies of bit planes the profile `fast` makes and where they lie, and which of them an output adds up."""

import itertools
from typing import NamedTuple

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.pairs import paired
from qresnet_jax.ship.c.plan import Size, Step
from qresnet_jax.ship.geometry import Extent, Window

ALIGN = 64  # bytes; everything in the buffer is aligned to it, and no vector is longer
_LOAD = 8  # bytes that are loaded and stored at once
_IN_WORDS = (1, 2, 4, 8)  # bytes of rows that do not cross the ends of such words


def stored(size: Size, images: int = 1) -> Size:
    """Returns the size of bit planes in memory: with so many rows more for each image that planes fill whole vectors.

    Rows that cross the ends of words of 8 bytes get no others below them.

    Args:
      size: the size of an image.
      images: the images that lie one below the other.
    """
    row, plane = row_bytes(size.width), size.height * row_bytes(size.width)
    if row in _IN_WORDS:
        plane = 1 << (plane - 1).bit_length() if plane <= 2 * ALIGN else -(-plane // ALIGN) * ALIGN
    return Size(images * plane // row, size.width)


class View:
    """What a window sees of bit planes; see `model_window` in `window.h`.

    Args:
      window: a window of any kind.
      size: the size of the image.
      images: the images that lie one below the other; if they are several, they are taken for one, which they are for
        windows that see none of two images.
    """

    def __init__(self, window: Window, size: Size, images: int = 1) -> None:
        (self.rows, self.columns), ((top, bottom), (left, _)) = window.size, window.padding
        height, width = size = stored(size, images) if images > 1 else size
        self.window, self.height, self.width = window, height, width
        self.out = Size(*(x.add for x in window.leaves(Extent(height, 0), Extent(width, 0))))
        self.whole = plane_bytes(stored(size))
        self.plane = plane_bytes(stored(self.out))
        self.padded = padded_bytes(self.plane)
        border = row_bytes(left)
        last = 8 * border - left + (self.out.width - 1) * window.strides[1] + self.columns
        self.full_height = top + height + bottom
        self.full_row = max(border + row_bytes(width), row_bytes(last))

    def fields(self, channels: int, planes: int) -> dict[str, int]:
        """Returns the fields of a `model_window`, in the order of the struct.

        Args:
          channels: channels of the image.
          planes: bits of its levels; 0 for a stream.
        """
        (down, right), ((top, _), (left, _)) = self.window.strides, self.window.padding
        return {
            "height": self.height,
            "width": self.width,
            "row": row_bytes(self.width),
            "out_height": self.out.height,
            "out_width": self.out.width,
            "out_row": row_bytes(self.out.width),
            "channels": channels,
            "planes": planes,
            "rows": self.rows,
            "columns": self.columns,
            "down": down,
            "right": right,
            "top": top,
            "left": left,
            "full_height": self.full_height,
            "full_row": self.full_row,
            "plane": self.whole,
            "out_plane": self.plane,
            "padded": self.padded,
        }

    def full_bytes(self, planes: int) -> int:
        """Returns the bytes of planes with their border."""
        return planes * (self.full_height * self.full_row + _LOAD)

    def seen_bytes(self, planes: int) -> int:
        """Returns the bytes of what the window sees of planes."""
        return planes * self.padded + _LOAD


class Taps:
    """The copies of bit planes that a convolution adds up, one for each pixel of its window.

    Args:
      conv: a binary convolution with any window.
      size: the size of its input.
      planes: bits of the input's levels.
      images: the images that lie one below the other; see `View`.

    Attributes:
      copied: the rows of the kernel that there are copies for.
      copy: for each row of the kernel, which of those it reads.
      moves: rows by which what it counts is to be moved then.
    """

    def __init__(self, conv: nodes.BinaryConvNode, size: Size, planes: int, images: int = 1) -> None:
        self.size, self.planes, self.images = size, planes, images
        self.channels = conv.groups * conv.signs.shape[2]
        self.view = View(conv.window, size, images)
        self.plane, self.padded = self.view.plane, self.view.padded
        self.copied = self.copy = list(range(self.view.rows))
        self.moves = [0] * self.view.rows

    @property
    def count(self) -> int:
        """Returns the number of copies of a plane."""
        return len(self.copied) * self.view.columns

    @property
    def chunk(self) -> int:
        """Returns the bytes of all copies for 8 bytes of each plane."""
        return 8 * self.planes * (1 + self.count * self.channels)

    @property
    def nbytes(self) -> int:
        """Returns the bytes of the copies that there are at the same time."""
        return self.chunk * self.padded // 8

    def offsets(self) -> np.ndarray:
        """Returns the places of copies in chunks of 8 bytes, in bytes: int64 `[copied rows, kw, channels]`."""
        copies = np.arange(self.count * self.channels).reshape(len(self.copied), -1, self.channels)
        return 8 * self.planes * (1 + copies)


class ShiftedTaps(Taps):
    """Copies for a centered window, where every one is a whole plane that is shifted; see `model_taps` in `planes.h`.

    Args:
      conv: a binary convolution with a centered window.
      size: the size of its input.
      planes: bits of the input's levels.
      middle: whether to copy only for those rows of the kernel that need no move by whole rows.
      images: the images that lie one below the other. At stride 2 they have twice as many rows in memory as in the result.

    Attributes:
      seen: the size of the result of one image.
    """

    def __init__(
        self, conv: nodes.BinaryConvNode, size: Size, planes: int, middle: bool, images: int = 1
    ) -> None:
        super().__init__(conv, size, planes, images)
        self.stride, self.seen = conv.window.strides[0], View(conv.window, size).out
        kh, kw = conv.window.size
        rows, self.columns = ([i - k // 2 for i in range(k)] for k in (kh, kw))
        self.moves = [dy // self.stride for dy in rows]
        self.copied = [i for i, move in enumerate(self.moves) if move == 0 or not middle]
        if middle:
            remainders = [rows[i] % self.stride for i in self.copied]
            self.copy = [remainders.index(dy % self.stride) for dy in rows]
        self.taps = [(rows[i], dx) for i in self.copied for dx in self.columns]
        self.phases = sorted({(dy % self.stride, dx % self.stride) for dy, dx in self.taps})

    @property
    def nbytes(self) -> int:
        """Returns the bytes of the copies for one chunk, as a convolution computes one after the other."""
        return self.chunk * min(self.padded, ALIGN) // 8

    def reach(self) -> int:
        """Returns the most bytes that are read before and after a plane."""
        rows, columns = max(map(abs, self.moves)), max(map(abs, self.columns))
        return rows * row_bytes(self.seen.width) + columns // 8 + self.padded - self.plane + 16

    def across(self) -> bool:
        """Returns whether rows cross the ends of words of 8 bytes."""
        return row_bytes(self.seen.width) not in _IN_WORDS

    def shifts(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many bytes and bits further on each tap reads: int32 and int8 `[taps]`."""
        moves = [(dy // self.stride, dx // self.stride) for dy, dx in self.taps]
        rows = np.array([dy * row_bytes(self.seen.width) for dy, _ in moves])
        pixels = np.array([dx for _, dx in moves])
        if self.across():
            return (rows + pixels // 8).astype(np.int32), (pixels % 8).astype(np.int8)
        return rows.astype(np.int32), np.where(np.abs(pixels) < 64, pixels, 0).astype(np.int8)

    def masks(self) -> np.ndarray:
        """Returns for each tap the pixels that it reads from inside the image: uint8 `[taps * padded]`."""
        x, y = np.arange(8 * row_bytes(self.seen.width)), np.arange(stored(self.seen).height)
        planes = []
        for dy, dx in self.taps:
            height, width = (
                -(-(size - d % self.stride) // self.stride)
                for size, d in ((self.size.height, dy), (self.size.width, dx))
            )
            row, column = y + dy // self.stride, x + dx // self.stride
            bits = np.outer((row >= 0) & (row < height), (column >= 0) & (column < width))
            bits &= np.outer(y < self.seen.height, x < self.seen.width)
            packed = np.tile(np.packbits(bits.ravel(), bitorder="little"), self.images)
            planes.append(np.pad(packed, (0, self.padded - len(packed))))
        return np.concatenate(planes)


def row_bytes(width: int) -> int:
    """Returns the bytes of one row of a bit plane."""
    return -(-width // 8)


def plane_bytes(size: Size) -> int:
    """Returns the bytes of a bit plane of a size in memory."""
    return size.height * row_bytes(size.width)


def padded_bytes(plane: int) -> int:
    """Returns the bytes of a bit plane in whole chunks, whichever vectors a machine has."""
    if plane > ALIGN // 2:
        return -(-plane // ALIGN) * ALIGN
    return max(1 << (plane - 1).bit_length(), 8)


class Lists(NamedTuple):
    """The inputs that each output of a convolution adds up. Its result is `polarity * (2 * sum - sum of all inputs)`.

    Args:
      lists: for each group the places of all its inputs; then, for two outputs at a time, of those that both add up, of those of the
        first one and of those of the second one.
      order: the outputs in the order of their lists, int `[out]`.
      polarity: +1 or -1 for each output, int `[out]`.
      most: the most inputs of an output.
    """

    lists: list[np.ndarray]
    order: np.ndarray
    polarity: np.ndarray
    most: int


def lists_of(step: Step, inputs: np.ndarray, share: bool) -> Lists:
    """Returns the lists of a step with a binary convolution.

    Args:
      step: the step.
      inputs: places of the inputs, `[kh, kw, channels]`.
      share: whether two outputs may share inputs; otherwise their first list is empty.
    """
    added, order, polarity = paired(step)
    groups = step.binary_conv.groups
    lists = []
    for part, rows in zip(np.split(inputs, groups, axis=2), np.split(added, groups), strict=True):
        places = part.ravel()
        lists.append(places)
        for first, second in itertools.zip_longest(rows[::2], rows[1::2], fillvalue=np.zeros_like(rows[0])):
            both = first & second & share
            lists += [places[x] for x in (both, first & ~both, second & ~both)]
    most = int(added.sum(axis=1).max())
    return Lists(lists, order, polarity, most)


def entries(step: Step, choose: int, taps: Taps) -> list[list[np.ndarray]]:
    """Returns lists of each output of a convolution of one group, with plus signs only, of entries of a table of sums of `choose` inputs.

    Returns:
      For all inputs, and then for each output: places in bytes, in one list for each move in
      `sorted(set(taps.moves))`.
    """
    signs = step.binary_conv.signs
    kh, kw = signs.shape[:2]
    plus = [np.ones(signs.shape[:3], int), *np.moveaxis(signs > 0, 3, 0).astype(int)]
    subsets = [(grouped(x, choose).reshape(kh, kw, -1, choose) << np.arange(choose)).sum(3) for x in plus]
    row = np.array(taps.copy)[:, None, None]
    first = (row * kw + np.arange(kw)[:, None]) * subsets[0].shape[2] + np.arange(subsets[0].shape[2])
    moves = np.array(taps.moves)
    return [
        [32 * ((first << choose) + subset)[moves == move].ravel() for move in sorted(set(taps.moves))]
        for subset in subsets
    ]


def grouped(x: np.ndarray, choose: int) -> np.ndarray:
    """Returns `[kh, kw, channels]` with zeros up to a multiple of `choose` channels."""
    return np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % choose)))
