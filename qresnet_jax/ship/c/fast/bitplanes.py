"""Says where the shifted copies of bit planes lie in the profile `fast`, and which of them an output adds up."""

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.plan import Size, Step

ALIGN = 64  # bytes; everything in the buffer is aligned to it, and no vector is longer


class Taps:
    """The shifted copies of bit planes that a convolution adds up, and where they lie; see `model_taps` in `planes.h`.

    Args:
      conv: a binary convolution.
      height, width: the size of its input.
      planes: bits of the input's levels.
      middle: whether to copy only for those rows of the kernel that need no move by whole rows.
    """

    def __init__(
        self, conv: nodes.BinaryConvNode, height: int, width: int, planes: int, middle: bool
    ) -> None:
        kh, kw, self.channels, _ = conv.signs.shape
        self.height, self.width, self.stride, self.planes = height, width, conv.stride, planes
        self.out = Size(-(-height // conv.stride), -(-width // conv.stride))
        self.rows = [i - kh // 2 for i in range(kh)]
        self.columns = [j - kw // 2 for j in range(kw)]
        self.moves = [dy // conv.stride for dy in self.rows]
        self.copied = [i for i, move in enumerate(self.moves) if move == 0 or not middle]
        self.taps = [(self.rows[i], dx) for i in self.copied for dx in self.columns]
        self.phases = sorted({(dy % conv.stride, dx % conv.stride) for dy, dx in self.taps})
        self.plane = plane_bytes(self.out)
        self.padded = padded_bytes(self.plane)
        self.chunk = 8 * planes * (1 + len(self.taps) * self.channels)  # bytes, for 8 bytes of each plane

    def reach(self) -> int:
        """Returns the most bytes that are read before and after a plane."""
        rows, columns = max(map(abs, self.moves)), max(map(abs, self.columns))
        return rows * row_bytes(self.out.width) + columns // 8 + self.padded - self.plane + 16

    def offsets(self) -> np.ndarray:
        """Returns the places of taps in chunks of 8 bytes, in bytes: int64 `[copied rows, kw, channels]`."""
        copies = np.arange(len(self.taps) * self.channels).reshape(len(self.copied), -1, self.channels)
        return 8 * self.planes * (1 + copies)

    def across(self) -> bool:
        """Returns whether rows cross the ends of words of 8 bytes."""
        return row_bytes(self.out.width) not in (1, 2, 4, 8)

    def shifts(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns how many bytes and bits further on each tap reads: int32 and int8 `[taps]`."""
        moves = [(dy // self.stride, dx // self.stride) for dy, dx in self.taps]
        rows = np.array([dy * row_bytes(self.out.width) for dy, _ in moves])
        pixels = np.array([dx for _, dx in moves])
        if self.across():
            return (rows + pixels // 8).astype(np.int32), (pixels % 8).astype(np.int8)
        return rows.astype(np.int32), np.where(np.abs(pixels) < 64, pixels, 0).astype(np.int8)

    def masks(self) -> np.ndarray:
        """Returns for each tap the pixels that it reads from inside the image: uint8 `[taps * padded]`."""
        x, y = np.arange(8 * row_bytes(self.out.width)), np.arange(self.out.height)
        planes = []
        for dy, dx in self.taps:
            height, width = (
                -(-(size - d % self.stride) // self.stride)
                for size, d in ((self.height, dy), (self.width, dx))
            )
            row, column = y + dy // self.stride, x + dx // self.stride
            bits = np.outer((row >= 0) & (row < height), (column >= 0) & (column < width))
            bits &= x < self.out.width
            packed = np.packbits(bits.ravel(), bitorder="little")
            planes.append(np.pad(packed, (0, self.padded - len(packed))))
        return np.concatenate(planes)


def row_bytes(width: int) -> int:
    """Returns the bytes of one row of a bit plane."""
    return -(-width // 8)


def plane_bytes(size: Size) -> int:
    """Returns the bytes of a bit plane."""
    return size.height * row_bytes(size.width)


def padded_bytes(plane: int) -> int:
    """Returns the bytes of a bit plane in whole chunks, whichever vectors a machine has."""
    if plane > ALIGN // 2:
        return -(-plane // ALIGN) * ALIGN
    return max(1 << (plane - 1).bit_length(), 8)


def minority(step: Step, inputs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Returns the lists of inputs to add up: all of them, then for each output those of its rarer sign.

    Args:
      step: a step with a binary convolution.
      inputs: places of the inputs, `[kh, kw, channels]`.

    Returns:
      The sign of each output's list, -1 or +1, `[out]`, and the places in each list, where the first list has
      all inputs. The convolution's result is sign * (2 * sum of the list - sum of all inputs).
    """
    signs = step.binary_conv.signs
    offsets, signs = inputs.ravel(), signs.reshape(-1, signs.shape[3])
    polarity = np.where(2 * (signs > 0).sum(0) <= len(signs), 1, -1)
    if isinstance(step.last, nodes.RequantizeNode):
        polarity[step.last.multiplier == -(2**31)] = 1  # -1 would need a multiplier of 2**31
    lists = [offsets[signs[:, o] == polarity[o]] for o in range(signs.shape[1])]
    return polarity, [offsets, *lists]


def entries(step: Step, choose: int, taps: Taps) -> list[list[np.ndarray]]:
    """Returns lists as `minority` does, but for plus signs only, and of entries of a table with sums of `choose` inputs.

    Returns:
      For all inputs, and then for each output: places in bytes, in one list for each move in
      `sorted(set(taps.moves))`.
    """
    signs = step.binary_conv.signs
    kh, kw = signs.shape[:2]
    plus = [np.ones(signs.shape[:3], int), *np.moveaxis(signs > 0, 3, 0).astype(int)]
    subsets = [(grouped(x, choose).reshape(kh, kw, -1, choose) << np.arange(choose)).sum(3) for x in plus]
    parity = [taps.rows[i] % taps.stride for i in taps.copied]
    row = np.array([parity.index(dy % taps.stride) for dy in taps.rows])[:, None, None]
    first = (row * kw + np.arange(kw)[:, None]) * subsets[0].shape[2] + np.arange(subsets[0].shape[2])
    moves = np.array(taps.moves)
    return [
        [32 * ((first << choose) + subset)[moves == move].ravel() for move in sorted(set(taps.moves))]
        for subset in subsets
    ]


def grouped(x: np.ndarray, choose: int) -> np.ndarray:
    """Returns `[kh, kw, channels]` with zeros up to a multiple of `choose` channels."""
    return np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % choose)))
