"""Writes the constants of the profile `fast`: structs with their arrays. The headers say what their fields mean."""

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.fast.bitplanes import ALIGN, ShiftedTaps, grouped, row_bytes, stored
from qresnet_jax.ship.c.fast.layout import Layout
from qresnet_jax.ship.c.plan import Step
from qresnet_jax.ship.c.text import Constants


class Structs:
    """Writes structs. Each method returns the C expression of an address.

    Args:
      layout: the layout of the plan that the steps belong to.
      constants: what arrays and structs are added to.
      offset_bits: 16 or 32, the bits of all places of taps and entries.
    """

    def __init__(self, layout: Layout, constants: Constants, offset_bits: int) -> None:
        self.plan, self.layout, self.constants = layout.plan, layout, constants
        self.offsets = f"uint{offset_bits}"

    def _mask(self, result: int) -> str:
        """Adds the mask of the pixels of a plane, with zeros up to a whole vector."""
        size = self.plan.size(result)
        bits = np.zeros((stored(size).height, 8 * row_bytes(size.width)), bool)
        bits[: size.height, : size.width] = True
        packed = np.tile(np.packbits(bits.ravel(), bitorder="little"), self.layout.images)
        return self.constants.array(f"mask_{result}", np.pad(packed, (0, -len(packed) % ALIGN)))

    def window(self, step: Step) -> str:
        """Adds a `model_window`."""
        value, view = self.plan.values[step.source], self.layout.view(step)
        planes = self.plan.planes(step.source) if value.kind == "levels" else 0
        return self.constants.struct("window", f"window_{step.result}", view.fields(value.channels, planes))

    def spread(self, step: Step, taps: ShiftedTaps) -> str:
        """Adds a `model_taps`."""
        i = step.result
        bytes_, bits = taps.shifts()
        phase = [taps.phases.index((dy % taps.stride, dx % taps.stride)) for dy, dx in taps.taps]
        fields = {
            "height": self.layout.size(step.source).height,
            "row": row_bytes(taps.size.width),
            "out_height": self.layout.size(i).height,
            "out_row": row_bytes(taps.seen.width),
            "channels": taps.channels,
            "planes": taps.planes,
            "taps": len(taps.taps),
            "words": taps.padded // 8,
            "phases": len(taps.phases) if taps.stride == 2 else 0,
            "pitch": self.layout.pitch(taps),
            "parity": self.constants.array(f"parity_{i}", np.array(taps.phases, np.uint8)),
            "phase": self.constants.array(f"phase_{i}", np.array(phase, np.uint8)),
            "bytes": self.constants.array(f"bytes_{i}", bytes_),
            "bits": self.constants.array(f"bits_{i}", bits),
            "across": int(taps.across()),
            "mask": self.constants.array(f"taps_{i}", taps.masks()),
        }
        return self.constants.struct("taps", f"spread_{i}", fields)

    def conv(
        self,
        step: Step,
        lists: list[list[np.ndarray]],
        moves: list[int],
        order: np.ndarray | None = None,
    ) -> str:
        """Adds a `model_conv`.

        Args:
          step: a step with a binary convolution.
          lists: of each group the places of all inputs, then those of the outputs, in parts for each of the moves.
          moves: rows by which the sums of a part are still to be moved.
          order: the channels in the order of their lists, for outputs in pairs; see `Lists`.
        """
        i, out = step.result, step.binary_conv.signs.shape[3]
        of_group = out // step.binary_conv.groups
        flat = [np.pad(x, (0, -len(x) % 8)) for parts in lists for x in parts]  # with zeros, the first tap
        bits = np.array(moves) * -8 * row_bytes(self.plan.size(i).width)
        fields: dict[str, object] = {
            "lists": self.constants.array(f"lists_{i}", np.concatenate(flat).astype(self.offsets)),
            "counts": self.constants.array(f"counts_{i}", np.array([len(x) for x in flat], np.uint32)),
        }
        if order is not None:
            fields["order"] = self.constants.array(f"order_{i}", (order % of_group).astype(np.uint16))
        fields |= {
            "moves": self.constants.array(f"moves_{i}", bits.astype(np.int16)),
            "mask": self._mask(i),
            "out": of_group,
            "channels": out,
            "plane": self.layout.plane(i),
        }
        return self.constants.struct("conv", f"conv_{i}", fields)

    def compare(self, step: Step, polarity: np.ndarray, bound: int, bits: int, table: bool) -> str:
        """Adds a `model_thresholds`: of sums in bit planes, with 2**(bits - 1) added; for tables of 4 outputs a row."""
        node, i = step.thresholds, step.result
        channels, planes = self.plan.values[i].channels, self.plan.planes(i)
        direction = np.broadcast_to(node.direction, channels).astype(np.int64) * polarity
        t = np.clip(np.broadcast_to(node.thresholds, (channels, node.thresholds.shape[1])), -bound, bound + 1)
        # -x >= t is the same as not x >= 1 - t; if x takes none of these steps, the level is the highest.
        least = np.where(direction[:, None] > 0, t, 1 - t.astype(np.int64)) + 2 ** (bits - 1)
        if is_search(node):
            least = np.sort(least, axis=1)
        at_least = (least[..., None] >> np.arange(bits) & 1).astype(np.uint8)
        last = node.levels[-1].astype(int) >> np.arange(planes) & 1
        first = np.where(direction[:, None] > 0, 0, last).astype(np.uint8)
        if table:
            at_least, first = _of_four(1 - at_least), _of_four(first)
        elif is_search(node):
            at_least = np.stack([at_least[:, 1], at_least[:, 0] + 2 * at_least[:, 2]], axis=1)
        fields = {
            "at_least": self.constants.array(f"steps_{i}", at_least),
            "rows": at_least.shape[1],
            "select": self.constants.array(f"select_{i}", _select(node)),
            "first": self.constants.array(f"first_{i}", first),
        }
        return self.constants.struct("thresholds", f"thresholds_{i}", fields)

    def quantizer(self, step: Step, low: int, high: int) -> str:
        """Adds a `model_quantizer`: thresholds of numbers from low to high, which is the range of their type."""
        node, i = step.thresholds, step.result
        t, falling = node.thresholds.astype(np.int64), node.direction[:, None] < 0
        # x >= t is x > t - 1, and -x >= t is not x > -t.
        above = np.where(falling, -t, t - 1)
        # Every number is above a threshold below the lowest. That is stored as "not above the highest", as none is above it.
        inverted = falling ^ (above < low)
        above = np.where((above < low) | (above > high), high, above)
        select = _select(node)
        first = np.bitwise_xor.reduce(np.where(inverted, select, 0).astype(np.uint16), axis=1)
        fields = {
            "above": self.constants.array(f"steps_{i}", above.astype(np.int32)),
            "select": self.constants.array(f"select_{i}", select),
            "first": self.constants.array(f"first_{i}", first),
            "mask": self._mask(i),
            "rows": len(t),
            "steps": t.shape[1],
            "planes": self.plan.planes(i),
            "channels": self.plan.values[i].channels,
            "plane": self.layout.plane(i),
        }
        return self.constants.struct("quantizer", f"thresholds_{i}", fields)

    def requantize(
        self, step: Step, polarity: np.ndarray | int = 1, narrow_bound: int | None = None
    ) -> tuple[str, bool]:
        """Adds a `model_requantize` of polarity * x, in 32 bits if a bound of x is given and 32 bits hold everything.

        Returns:
          The address, and whether 32 bits are enough.
        """
        node, i = step.requantize, step.result
        m, c, k = (x.astype(np.int64) for x in (node.multiplier, node.offset, node.shift))
        narrow = narrow_bound is not None and narrow_bound < 2**15 and bool(np.all((k >= 1) & (k <= 31)))
        narrow = narrow and bool(np.all(narrow_bound * np.abs(m) + np.abs(c) < 2**31))
        split = (
            15 - (narrow_bound or 0).bit_length()
        )  # the most bits by which int16 can hold all sums to the left
        narrow = narrow and bool(np.all(np.abs(m) < 2 ** (15 + split)))
        m = m * polarity
        bound = self.plan.values[node.inputs[0]].bound
        ends = np.array([bound * np.abs(m) + c, c - bound * np.abs(m)]) >> node.shift
        name, offset = (
            ("offset", c.astype(np.int32))
            if narrow
            else ("wide_offset", c.astype(np.uint64) + np.uint64(2**63))
        )
        fields: dict[str, object] = {
            "multiplier": self.constants.array(f"multiplier_{i}", m.astype(np.int32)),
            "shift": self.constants.array(f"shift_{i}", k.astype(np.uint8)),
            "saturates": int(np.any((ends < nodes.STREAM_MIN) | (ends > nodes.STREAM_MAX))),
            "split": split if narrow else 0,
            name: self.constants.array(f"{name}_{i}", offset),
        }
        return self.constants.struct("requantize", f"requantize_{i}", fields), narrow

    def subset(self, step: Step, choose: int, inputs: np.ndarray) -> str:
        """Adds a `model_subset`: inputs in groups of `choose`, none of which has inputs of two taps."""
        inputs, i = grouped(inputs, choose), step.result
        fields = {
            "inputs": self.constants.array(f"inputs_{i}", inputs.astype(self.offsets)),
            "groups": inputs.size // choose,
            "choose": choose,
            "planes": self.plan.planes(step.source),
        }
        return self.constants.struct("subset", f"subset_{i}", fields)

    def dense(self, step: Step) -> str:
        """Adds a `model_dense`."""
        conv, size, words = step.binary_conv, self.plan.size(step.source), self.layout.dense_words(step)
        signs = self.plan.seen(step, conv.signs)
        bits = np.moveaxis(signs > 0, (3, 2), (0, 1))  # [out, channels, height, width]
        padded = np.pad(bits.reshape(len(bits), -1), ((0, 0), (0, 64 * words - bits[0].size)))
        plus = np.packbits(padded.ravel(), bitorder="little").view("<u8")
        fields = {
            "plus": self.constants.array(f"plus_{step.result}", plus),
            "channels": conv.signs.shape[2],
            "height": size.height,
            "width": size.width,
            "plane": self.layout.plane(step.source),
            "planes": self.plan.planes(step.source),
            "words": words,
            "out": len(bits),
        }
        return self.constants.struct("dense", f"dense_{step.result}", fields)

    def dense_stem(self, step: Step) -> str:
        """Adds a `model_dense_stem`."""
        conv = step.stem
        weights = np.moveaxis(self.plan.seen(step, conv.weights), 3, 0)  # [out, height, width, channels]
        fields = {
            "weights": self.constants.array(f"weights_{step.result}", weights),
            "mean": self.constants.array(f"mean_{step.result}", conv.double_mean),
            "inputs": weights[0].size,
            "channels": weights.shape[3],
            "out": len(weights),
        }
        return self.constants.struct("dense_stem", f"dense_{step.result}", fields)

    def stem(self, step: Step) -> str:
        """Adds a `model_stem`, with weights in pairs: of two channels, or of two columns of the last channel."""
        conv, out = step.stem, self.plan.size(step.result)
        (down, right), ((top, _), (left, _)) = conv.window.strides, conv.window.padding
        kh, kw, channels, outputs = conv.weights.shape
        row, rows, columns = row_bytes(out.width), self.layout.stem_rows(step), self.layout.stem_columns(step)
        i, j, c = (x.ravel() for x in np.indices((kh, kw, channels)))
        alone = (c == channels - 1) & (channels % 2 == 1)
        first = np.where(alone, j, c) % 2 == 0
        i, j, c, alone = i[first], j[first], c[first], alone[first]
        padded = np.pad(conv.weights, ((0, 0), (0, 1), (0, 1), (0, 0)))
        weights = np.stack([padded[i, j, c], padded[i, j + alone, c + ~alone]], axis=1)  # [count, 2, out]
        p = c // 2
        taps = ((p * down + i % down) * columns + j) * rows * row + i // down * row
        weights = np.moveaxis(weights, 2, 0).reshape(outputs, -1)
        weights = np.pad(weights, ((0, 0), (0, self.layout.stem_pitch(step) - weights.shape[1])))
        fields = {
            "weights": self.constants.array(f"weights_{step.result}", weights.astype(np.int16)),
            "mean": self.constants.array(f"mean_{step.result}", conv.double_mean),
            "taps": self.constants.array(f"taps_{step.result}", taps.astype(np.uint32)),
            "height": self.plan.height,
            "width": self.plan.width,
            "channels": channels,
            "down": down,
            "right": right,
            "top": top,
            "left": left,
            "pairs": (channels + 1) // 2,
            "count": taps.size,
            "pitch": weights.shape[1],
            "rows": rows,
            "columns": columns,
            "part": rows * row,
            "out": outputs,
            "out_row": row,
            "plane": self.layout.plane(step.result),
            "sums": self.layout.stem_sums(step) // 4,
        }
        return self.constants.struct("stem", f"stem_{step.result}", fields)


def is_search(node: nodes.ThresholdsNode) -> bool:
    """Returns whether there are three thresholds, of which the middle one says which of the others matters."""
    return np.array_equal(node.levels, range(4))


def _of_four(bits: np.ndarray) -> np.ndarray:
    """Packs `[out, ...]` bits of 4 outputs into a number: uint8 `[ceil(out / 4), ...]`."""
    padded = np.pad(bits, [(0, -len(bits) % 4), *[(0, 0)] * (bits.ndim - 1)])
    return np.packbits(padded.reshape(-1, 4, *bits.shape[1:]), axis=1, bitorder="little")[:, 0]


def _select(node: nodes.ThresholdsNode) -> np.ndarray:
    """Returns the bits of the level that change at each threshold, uint16."""
    return (node.levels[1:] ^ node.levels[:-1]).astype(np.uint16)
