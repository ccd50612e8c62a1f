"""Bit planes of the profile `fast`: where shifted copies of them lie, which ones an output adds up, and limits of sums."""

import numpy as np

from qresnet_jax.deploy import nodes
from qresnet_jax.deploy.c_plan import Size, Step

ALIGN = 64  # bytes; of all that lies in the buffer, and of the longest vectors


class Spread:
    """The shifted copies of bit planes that a convolution adds up, and where they lie; see `c/fast_planes.c`.

    Args:
      conv: a binary one.
      height, width: of its input.
    """

    def __init__(self, conv: nodes.BinaryConv, height: int, width: int):
        kh, kw, self.channels, _ = conv.signs.shape
        self.height, self.width, self.stride = height, width, conv.stride
        self.out = Size(-(-height // conv.stride), -(-width // conv.stride))
        columns = [j - kw // 2 for j in range(kw)]
        self.odd = [j % conv.stride for j in columns]
        self.shifts = [j // conv.stride for j in columns]
        self.rows = [i - kh // 2 for i in range(kh)]
        parities = sorted({i % conv.stride for i in self.rows})
        self.parity = [*parities, -1][:2]
        # Rows of zeros between copies; vectors of a middle row are aligned.
        margin = max(abs(i // conv.stride) for i in self.rows) * row_bytes(self.out.width)
        align = min(max(1 << (plane_bytes(self.out) - 1).bit_length(), 8), ALIGN)
        self.pitch = -(-(plane_bytes(self.out) + margin) // align) * align
        self.inputs = kh * kw * self.channels
        copies = len(parities) * kw * self.channels
        self.group = (1 + copies) * self.pitch  # bytes of one bit of the levels

    def offsets(self) -> np.ndarray:
        """Bytes from the beginning to what a tap sees, int64 `[kh, kw, channels]`."""
        i = np.array(self.rows)[:, None, None]
        j = np.arange(len(self.shifts))[:, None]
        parity = np.searchsorted(sorted(p for p in self.parity if p >= 0), i % self.stride)
        copy = 1 + (parity * len(self.shifts) + j) * self.channels + np.arange(self.channels)
        return copy * self.pitch + i // self.stride * row_bytes(self.out.width)

    def masks(self) -> np.ndarray:
        """Of each column of the kernel, the pixels whose source is in the image: uint8, whole words of 8 bytes."""
        x = np.arange(8 * row_bytes(self.out.width))
        planes = []
        for shift, odd in zip(self.shifts, self.odd, strict=True):
            columns = self.width if self.stride == 1 else (self.width + 1 - odd) // 2
            bits = (x + shift >= 0) & (x + shift < columns)
            planes.append(np.packbits(np.tile(bits, self.out.height), bitorder="little"))
        return np.concatenate([np.pad(plane, (0, -len(plane) % 8)) for plane in planes])


def saturation(m: int, c: int, k: int, bound: int) -> tuple[int, int, int, int, int]:
    """Limits beyond which `(x * m + c) >> k` saturates, so that what is computed between them fits in 32 bits.

    Args:
      m, c, k: of one channel, with `abs(m) >> k` below 2**29.
      bound: of `abs(x)`, below 2**24.

    Returns:
      m; the offset and zero with which `(start * abs(m) + offset >> k) - zero` is the result, where start is `x - low`,
      or `high - x` with m below 0; between offset and zero the limits low and high of x.
    """
    top, bottom = nodes.STREAM_MAX << k, (nodes.STREAM_MIN + 1 << k) - 1  # from here up or down all saturate
    first, last = -bound, bound
    if min(first * m, last * m) + c >= top:
        m, c = 0, top
    elif max(first * m, last * m) + c <= bottom:
        m, c = 0, nodes.STREAM_MIN << k
    if m > 0:
        first, last = max(first, (bottom - c) // m), min(last, -((c - top) // m))
    elif m < 0:
        first, last = max(first, (c - top) // -m), min(last, -((bottom - c) // -m))
    bias = 1 << min(k + 30, 63)
    return m, c + bias + m * (last if m < 0 else first), first, last, bias >> k


def row_bytes(width: int) -> int:
    """Of one row of a bit plane."""
    return -(-width // 8)


def plane_bytes(size: Size) -> int:
    """Of a bit plane."""
    return size.height * row_bytes(size.width)


def minority(step: Step, inputs: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """What an output channel adds up: of all inputs, then of each output's rarer sign, the offsets.

    Returns:
      `[out]`, +1 where the list is of minus signs: polarity * (all - 2 * sum of the list) is the convolution's result;
      and the lists, all inputs first.
    """
    offsets, signs = inputs.ravel(), step.conv.signs.reshape(-1, step.conv.signs.shape[3])
    polarity = np.where(2 * (signs < 0).sum(0) <= len(signs), 1, -1)
    if isinstance(step.last, nodes.Requantize):
        polarity[step.last.multiplier == -(2**31)] = 1  # -1 would need a multiplier of 2**31
    lists = [offsets[signs[:, o] == -polarity[o]] for o in range(signs.shape[1])]
    return polarity, [offsets, *lists]


def entries(step: Step, choose: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """As `minority`, for a table of the sums of `choose` inputs: the entries that are added up, counted in entries."""
    out = step.conv.signs.shape[3]
    minus = [np.ones(step.conv.signs.shape[:3], int), *np.moveaxis(step.conv.signs < 0, 3, 0).astype(int)]
    subsets = [
        (grouped(m, choose).reshape(-1, choose) << np.arange(choose)).sum(1) for m in minus
    ]  # entry of each group
    return np.ones(out, int), [subset + (np.arange(len(subset)) << choose) for subset in subsets]


def grouped(x: np.ndarray, choose: int) -> np.ndarray:
    """`[kh, kw, channels]` with zeros up to a multiple of `choose` channels."""
    return np.pad(x, ((0, 0), (0, 0), (0, -x.shape[2] % choose)))
