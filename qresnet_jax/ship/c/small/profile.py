"""The profile `small` of the C export: one bit per weight, little code, one pixel after the other.

Sums are population counts of levels' bit planes and signs, of as many channels at once as a word has bits.
The code is in `small.h`; this module writes what differs from network to network, which is constants and
calls.
"""

import math
import pathlib
from collections.abc import Sequence

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c import text
from qresnet_jax.ship.c.plan import IMAGE, Plan, Step, allocate
from qresnet_jax.ship.geometry import Window

ALIGN = 4  # bytes; everything in the buffer is aligned to it
_MAX_WASTE = (
    1 / 6
)  # the share of the bits of signs that words may waste because the channels do not fill them
_NARROW_MEAN = 2**15  # pixels of a window whose sums fit 32 bits in `model_mean_pool`


class SmallProfile:
    """The C code for one plan.

    Args:
      plan: the steps of the network for one size of images.

    Attributes:
      buffer_bytes: bytes of the buffer that the code needs, wherever the buffer begins.
      weight_bytes: bytes of all constant arrays.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.word_bits = _word_bits([s.conv for s in plan.steps if isinstance(s.conv, nodes.BinaryConvNode)])
        sizes = {step.result: self._nbytes(step.result) for step in plan.steps}
        rows = [4 * plan.values[s.result].channels * _has_row(s) for s in plan.steps]  # int32
        self.memory = allocate(plan.steps, sizes, rows, ALIGN)
        self.buffer_bytes = self.memory.nbytes + ALIGN - 1
        self.constants = text.Constants()
        self.calls = [self._step(t, step) for t, step in enumerate(plan.steps)]
        self.weight_bytes = self.constants.nbytes

    def source(self) -> str:
        """Returns the text between the head of `model.c` and the class names."""
        return text.amalgamated(self.program(), pathlib.Path(__file__).parent)

    def program(self) -> str:
        """Returns the same text with `#include` lines for the headers of this folder."""
        bits = {"MODEL_WORD_BITS": self.word_bits, "MODEL_MEAN_BITS": _mean_bits(self.plan)}
        head = "".join(f"#define {name} {n}\n" for name, n in bits.items())
        head += '\n#include "small.h"\n#include "../classify.h"\n'
        return "\n".join([head, self.constants.text(), self._function()])

    def _function(self) -> str:
        return (
            "void model_logits(const uint8_t *image, int32_t *logits, void *buffer)\n{\n"
            f"    uint8_t *const base = (uint8_t *)buffer + (0u - (uintptr_t)buffer) % {ALIGN}u;\n"
            "    size_t y, x;\n" + "\n".join(self.calls) + "}\n"
        )

    # Layout.

    def _words(self, channels: int) -> int:
        return -(-channels // self.word_bits)

    def _planes(self, result: int) -> int:
        return max(self.plan.values[result].bound.bit_length(), 1)

    def _pixel_units(self, result: int) -> int:
        """Returns the words or int16 numbers of one pixel of a result."""
        value = self.plan.values[result]
        if value.kind == "levels":
            return self._planes(result) * self._words(value.channels)
        return value.channels

    def _nbytes(self, result: int) -> int:
        value, size = self.plan.values[result], self.plan.size(result)
        unit = {"levels": self.word_bits // 8, "stream": 2, "logits": 0}[value.kind]
        return size.height * size.width * self._pixel_units(result) * unit

    def _pointer(self, result: int, const: str = "const ") -> str:
        if result == IMAGE:
            return "image"
        kind = "model_word" if self.plan.values[result].kind == "levels" else "model_int16"
        return f"({const}{kind} *)(base + {self.memory.offsets[result]})"

    def _pixel(self, result: int, const: str = "const ") -> str:
        """Returns the address of pixel (y, x) of a result."""
        width, units = self.plan.size(result).width, self._pixel_units(result)
        return f"{self._pointer(result, const)} + (y * {width}u + x) * {units}u"

    # Constants.

    def _window(self, source: int, window: Window) -> dict[str, int]:
        """Returns the fields of a `model_window`."""
        size, ((top, _), (left, _)) = self.plan.size(source), window.padding
        fields = dict(zip(("rows", "columns", "down", "right"), window.size + window.strides, strict=True))
        return {"height": size.height, "width": size.width, **fields, "top": top, "left": left}

    def _stem(self, step: Step) -> str:
        conv, i = step.stem, step.result
        fields = {
            "weights": self.constants.array(f"weights_{i}", np.moveaxis(conv.weights, 3, 0)),
            "mean": self.constants.array(f"mean_{i}", conv.double_mean),
            "in": conv.weights.shape[2],
            "out": conv.weights.shape[3],
            "window": self._window(step.source, conv.window),
        }
        return self.constants.struct("stem_conv", f"conv_{i}", fields)

    def _binary(self, step: Step) -> str:
        conv, i = step.binary_conv, step.result
        fields = {
            "signs": self.constants.array(f"signs_{i}", packed(_rows(conv) > 0, self.word_bits)),
            "words": self._words(self.plan.values[step.source].channels),
            "planes": self._planes(step.source),
            "in": conv.signs.shape[2],
            "out": conv.signs.shape[3] // conv.groups,
            "window": self._window(step.source, conv.window),
        }
        return self.constants.struct("binary_conv", f"conv_{i}", fields)

    def _thresholds(self, step: Step) -> str:
        node, bound = step.thresholds, self.plan.values[step.thresholds.inputs[0]].bound
        t = np.clip(node.thresholds, -bound - 1, bound + 1)  # beyond these the outcome is the same
        narrow = np.array_equal(t, t.astype(np.int16))
        i = step.result
        fields = {
            "narrow" if narrow else "wide": self.constants.array(
                f"steps_{i}", t.astype(np.int16 if narrow else np.int32)
            ),
            "direction": self.constants.array(f"direction_{i}", node.direction),
            "levels": self.constants.array(f"levels_{i}", node.levels.astype(np.int16)),
            "rows": len(t),
            "steps": t.shape[1],
            "words": self._words(self.plan.values[i].channels),
            "planes": self._planes(i),
        }
        return self.constants.struct("thresholds", f"thresholds_{i}", fields)

    def _requantize(self, step: Step) -> str:
        node, i = step.requantize, step.result
        narrow = np.array_equal(node.offset, node.offset.astype(np.int32))
        fields = {
            "multiplier": self.constants.array(f"multiplier_{i}", node.multiplier),
            "shift": self.constants.array(f"shift_{i}", node.shift),
            "offset" if narrow else "wide_offset": self.constants.array(
                f"offset_{i}", node.offset.astype(np.int32) if narrow else node.offset
            ),
        }
        return self.constants.struct("requantize", f"requantize_{i}", fields)

    # Calls.

    def _step(self, t: int, step: Step) -> str:
        name = self.plan.network.nodes[step.result].name
        lines = [f"/* {text.comment(name or nodes.kind(self.plan.network.nodes[step.result]))} */", "{"]
        lines += ["    " + line for line in self._body(t, step)]
        return "".join(f"    {line}\n" for line in [*lines, "}"])

    def _body(self, t: int, step: Step) -> list[str]:
        """Returns the call of the classifier, or a loop over the pixels of another result."""
        if isinstance(step.last, nodes.ClassifierNode):
            weights = self.constants.array("classifier_weights", step.last.weights.T)
            bias = self.constants.array("classifier_bias", step.last.bias)
            features = f"{len(step.last.weights)}u"
            source = self._pointer(step.source)
            return [_call("classify", source, weights, bias, features, "MODEL_CLASSES", "logits")]
        size, has_row = self.plan.size(step.result), _has_row(step)
        row = f"model_int32 *const row = (model_int32 *)(base + {self.memory.scratch[t]});"
        return [
            *[row] * has_row,
            f"for (y = 0; y < {size.height}u; y++)",
            f"    for (x = 0; x < {size.width}u; x++) {{",
            *(f"        {call}" for call in (self._by_row(step) if has_row else [self._pooled(step)])),
            "    }",
        ]

    def _pooled(self, step: Step) -> str:
        """Returns the call that makes a pixel of what a window sees."""
        i, value, window = step.result, self.plan.values[step.result], _pool_window(self.plan, step)
        address = self.constants.struct("window", f"window_{i}", self._window(step.source, window))
        if value.kind == "levels":
            function, sizes = "max_levels", [f"{self._planes(i)}u", f"{self._words(value.channels)}u"]
        else:
            function = "max_stream" if isinstance(step.last, nodes.MaxPoolNode) else "mean_pool"
            sizes = [f"{value.channels}u"]
        return _call(function, address, self._pointer(step.source), "y", "x", *sizes, self._pixel(i, ""))

    def _by_row(self, step: Step) -> list[str]:
        """Returns the calls that make a row of sums or of streams, and then a pixel from it."""
        result, channels = self._pixel(step.result, ""), f"{self.plan.values[step.result].channels}u"
        calls = self._read(step)
        if isinstance(step.last, nodes.ThresholdsNode):
            return [*calls, _call("quantize", self._thresholds(step), "row", channels, result)]
        if isinstance(step.last, nodes.RequantizeNode):
            calls.append(_call("rescale", self._requantize(step), "row", channels))
        addend = "NULL" if step.addend is None else self._pixel(step.addend)
        return [*calls, _call("write", "row", addend, int(step.relu), channels, result)]

    def _read(self, step: Step) -> list[str]:
        if isinstance(step.conv, nodes.StemNode):
            return [_call("stem", self._stem(step), "image", "y", "x", "row")]
        if isinstance(step.conv, nodes.BinaryConvNode):
            conv, groups = self._binary(step), step.conv.groups
            function = ("binary", conv) if groups == 1 else ("grouped", conv, f"{groups}u")
            return [_call(*function, self._pointer(step.source), "y", "x", "row")]
        calls, first = [], 0
        for x in (step.source, *step.others):
            channels = self.plan.values[x].channels
            calls.append(_call("read", self._pixel(x), f"{channels}u", f"row + {first}"))
            first += channels
        return calls


def _call(function: str, *arguments: object) -> str:
    return f"model_{function}({', '.join(map(str, arguments))});"


def packed(bits: np.ndarray, word_bits: int) -> np.ndarray:
    """Packs bits `[..., C]` into words: channel c is bit `c % word_bits` of word `c // word_bits`, then zeros."""
    channels = bits.shape[-1]
    padded = np.zeros((*bits.shape[:-1], -(-channels // word_bits), word_bits), np.uint64)
    padded.reshape(*bits.shape[:-1], -1)[..., :channels] = bits
    return (padded << np.arange(word_bits, dtype=np.uint64)).sum(-1).astype(f"uint{word_bits}")


def _rows(conv: nodes.BinaryConvNode) -> np.ndarray:
    """Returns signs `[out / groups, kh, kw, in]`: for every input channel, those of the outputs of its group."""
    kh, kw, features, out = conv.signs.shape
    by_group = conv.signs.reshape(kh, kw, features, conv.groups, out // conv.groups)
    return by_group.transpose(4, 0, 1, 3, 2).reshape(-1, kh, kw, conv.groups * features)


def _word_bits(convs: Sequence[nodes.BinaryConvNode]) -> int:
    """Returns the bits of the widest word that wastes few of them; or 8, whatever a byte wastes."""
    channels = np.array([conv.signs.shape[2] * conv.groups for conv in convs], int)  # of a row of signs
    needed = np.array([conv.signs.size for conv in convs], int)
    for bits in (32, 16):
        spent = needed // channels * bits * -(-channels // bits)
        if np.sum(spent - needed) <= _MAX_WASTE * np.sum(spent):
            return bits
    return 8


def _pool_window(plan: Plan, step: Step) -> Window:
    """Returns the window of a step with a pool."""
    assert isinstance(step.last, nodes.MaxPoolNode | nodes.MeanPoolNode)
    size = plan.size(step.source)
    return step.last.window or Window((size.height, size.width))


def _mean_bits(plan: Plan) -> int:
    """Returns the bits that the sums of all means need."""
    means = [step for step in plan.steps if isinstance(step.last, nodes.MeanPoolNode)]
    largest = max((math.prod(_pool_window(plan, step).size) for step in means), default=0)
    return 32 if largest <= _NARROW_MEAN else 64


def _has_row(step: Step) -> bool:
    """Returns whether a step works on rows of the channels of one pixel."""
    return not isinstance(step.last, nodes.MaxPoolNode | nodes.MeanPoolNode | nodes.ClassifierNode)
