"""Writes the constants of the profile `small`: structs with their arrays. The headers say what their fields mean."""

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.pairs import paired
from qresnet_jax.ship.c.plan import Plan, Step
from qresnet_jax.ship.c.text import Constants
from qresnet_jax.ship.geometry import Window

PIXELS = 32  # of a word
_EIGHT = 8  # sums that the stem computes at once


class Structs:
    """Writes structs. Each method returns the C expression of an address, or the fields of a struct inside of another.

    Args:
      plan: the plan that the steps belong to.
      constants: what arrays and structs are added to.
    """

    def __init__(self, plan: Plan, constants: Constants) -> None:
        self.plan, self.constants = plan, constants

    def pitch(self, result: int) -> int:
        """Returns how many pixels a tile of a result has at most."""
        size = self.plan.size(result)
        return min(size.height * size.width, PIXELS)

    def window(self, step: Step, window: Window) -> dict[str, int]:
        """Returns the fields of a `model_window`."""
        size, out, ((top, _), (left, _)) = (
            self.plan.size(step.source),
            self.plan.size(step.result),
            window.padding,
        )
        fields = {
            "height": size.height,
            "width": size.width,
            "out_height": out.height,
            "out_width": out.width,
        }
        fields |= dict(zip(("rows", "columns", "down", "right"), window.size + window.strides, strict=True))
        return {**fields, "top": top, "left": left}

    def pool(self, step: Step) -> str:
        """Adds a `model_window` for a pool."""
        return self.constants.struct(
            "window", f"window_{step.result}", self.window(step, pool_window(self.plan, step))
        )

    def stem(self, step: Step) -> str:
        """Adds a `model_stem_conv`."""
        conv, i = step.stem, step.result
        weights = conv.weights.reshape(-1, conv.weights.shape[3]).T
        weights = np.pad(weights, ((0, 0), (0, weights.shape[1] % 2)))
        few = self.pitch(i) < _EIGHT and np.array_equal(weights, weights.astype(np.int8))
        name, bits = ("bytes", 8) if few else ("weights", 16)
        halves = weights.astype(f"uint{bits}").astype(np.uint32)
        pairs = (halves[:, ::2] | halves[:, 1::2] << bits).astype(f"uint{2 * bits}")
        fields = {
            name: self.constants.array(f"weights_{i}", pairs),
            "mean": self.constants.array(f"mean_{i}", conv.double_mean),
            "in": conv.weights.shape[2],
            "pairs": pairs.shape[1],
            "pitch": self.pitch(i),
            "output": self._output(step, np.ones(conv.weights.shape[3], int)),
            "window": self.window(step, conv.window),
        }
        return self.constants.struct("stem_conv", f"conv_{i}", fields)

    def conv(self, step: Step, tiles: int) -> str:
        """Adds a `model_conv`, which has memory for so many tiles."""
        conv, i = step.binary_conv, step.result
        added, order, polarity = paired(step)
        fields = {
            "signs": self.constants.array(f"signs_{i}", packed(added)),
            "order": self.constants.array(f"order_{i}", order.astype(np.uint16)),
            "in": conv.signs.shape[2],
            "out": conv.signs.shape[3] // conv.groups,
            "groups": conv.groups,
            "planes": self.plan.planes(step.source),
            "bits": sum_bits(self.plan.values[_sums(step)].bound),
            "tiles": tiles,
            "output": self._output(step, polarity),
            "window": self.window(step, conv.window),
        }
        return self.constants.struct("conv", f"conv_{i}", fields)

    def dense(self, step: Step) -> str:
        """Adds a `model_dense`."""
        conv, size, i = step.binary_conv, self.plan.size(step.source), step.result
        seen = self.plan.seen(step, conv.signs)
        bits = np.moveaxis(seen > 0, (3, 2), (0, 1)).reshape(seen.shape[3], -1)  # [out, channels and pixels]
        fields = {
            "signs": self.constants.array(f"signs_{i}", packed(bits)),
            "channels": seen.shape[2],
            "pixels": size.height * size.width,
            "planes": self.plan.planes(step.source),
            "output": self._output(step, np.ones(seen.shape[3], int)),
        }
        return self.constants.struct("dense", f"dense_{i}", fields)

    def output(self, step: Step) -> str:
        """Adds a `model_output` for a step that reads a stream."""
        polarity = np.ones(self.plan.values[step.result].channels, int)
        return self.constants.struct("output", f"output_{step.result}", self._output(step, polarity))

    def _output(self, step: Step, polarity: np.ndarray) -> dict[str, object]:
        """Returns the fields of a `model_output` of numbers that are the sums times a polarity for each channel."""
        fields: dict[str, object] = {}
        if isinstance(step.last, nodes.ThresholdsNode):
            fields["thresholds"] = self._thresholds(step, polarity)
        elif isinstance(step.last, nodes.RequantizeNode):
            fields["requantize"] = self._requantize(step, polarity)
        size = self.plan.size(step.result)
        return {
            **fields,
            "channels": self.plan.values[step.result].channels,
            "pixels": size.height * size.width,
            "relu": int(step.relu),
        }

    def _thresholds(self, step: Step, polarity: np.ndarray) -> str:
        node, i = step.thresholds, step.result
        bound = self.plan.values[node.inputs[0]].bound
        rows = len(node.thresholds) if np.all(polarity == 1) else len(polarity)
        direction = np.broadcast_to(node.direction, rows) * (polarity if rows == len(polarity) else 1)
        t = np.broadcast_to(node.thresholds, (rows, node.thresholds.shape[1]))
        t = np.clip(t, -bound, bound + 1).astype(np.int64)  # beyond these the outcome is the same
        falling = direction[:, None] < 0
        least = np.where(falling, 1 - t, t)  # -x >= t is the same as not x >= 1 - t
        narrow = np.array_equal(least, least.astype(np.int16))
        # A falling channel begins at the highest level, as it passes a threshold where x does not reach it.
        first = np.where(falling[:, 0], node.levels[-1], 0)
        fields = {
            "narrow" if narrow else "wide": self.constants.array(
                f"steps_{i}", least.astype(np.int16 if narrow else np.int32)
            ),
            "first": self.constants.array(f"first_{i}", first.astype(np.uint16)),
            "change": self.constants.array(
                f"change_{i}", (node.levels[1:] ^ node.levels[:-1]).astype(np.uint16)
            ),
            "rows": rows,
            "steps": least.shape[1],
            "planes": self.plan.planes(i),
        }
        return self.constants.struct("thresholds", f"thresholds_{i}", fields)

    def _requantize(self, step: Step, polarity: np.ndarray) -> str:
        node, i = step.requantize, step.result
        m, c, k = (x.astype(np.int64) for x in (node.multiplier, node.offset, node.shift))
        # In float64, as the largest of these numbers do not fit int64.
        largest = self.plan.values[node.inputs[0]].bound * np.abs(m.astype(float)) + np.abs(c.astype(float))
        name, offset = "large", c
        if np.all((largest < 2**31 - 1) & (k >= 1) & (k <= 31)):
            name, offset = "narrow", c.astype(np.int32)
        elif np.all((largest < 2.0 ** (30 + k)) & (k <= 32)):
            name = "wide"
        fields = {
            "multiplier": self.constants.array(f"multiplier_{i}", (m * polarity).astype(np.int32)),
            "shift": self.constants.array(f"shift_{i}", node.shift),
            name: self.constants.array(f"{name}_{i}", offset),
        }
        return self.constants.struct("requantize", f"requantize_{i}", fields)


def _sums(step: Step) -> int:
    """Returns the position of a step's convolution."""
    assert step.last is not None
    return step.last.inputs[0]


def sum_bits(bound: int) -> int:
    """Returns the bits of sums up to a bound as `model_start` stores them, and of their thresholds."""
    return (bound + 2).bit_length() + 1


def packed(bits: np.ndarray) -> np.ndarray:
    """Packs rows of bits into words, the first bit into the lowest one, and fills them up with zeros: uint32 `[rows, words]`."""
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % PIXELS))).reshape(len(bits), -1, PIXELS)
    return (padded.astype(np.uint64) << np.arange(PIXELS, dtype=np.uint64)).sum(2).astype(np.uint32)


def pool_window(plan: Plan, step: Step) -> Window:
    """Returns the window of a step with a pool."""
    assert isinstance(step.last, nodes.MaxPoolNode | nodes.MeanPoolNode)
    size = plan.size(step.source)
    return step.last.window or Window((size.height, size.width))
