"""The profile `small` of the C export: one bit per weight, little code, one pixel after the other.

Sums are population counts of levels' bit planes and signs, of as many channels at once as a word has bits.
The code is in `small.h`; this module writes what differs from network to network, which is constants and
calls.
"""

import pathlib
from collections.abc import Sequence

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c import text
from qresnet_jax.ship.c.plan import IMAGE, Plan, Step, allocate

ALIGN = 4  # bytes; everything in the buffer is aligned to it
_MAX_WASTE = (
    1 / 6
)  # the share of the bits of signs that words may waste because the channels do not fill them


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
        rows = [4 * _row(plan, step) for step in plan.steps]  # int32 of the channels of one pixel
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
        head = f'#define MODEL_WORD_BITS {self.word_bits}\n\n#include "small.h"\n#include "../classify.h"\n'
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
        unit = {"levels": self.word_bits // 8, "stream": 2, "mean": 2, "logits": 0}[value.kind]
        return size.height * size.width * self._pixel_units(result) * unit

    def _pointer(self, result: int, const: str = "const ") -> str:
        if result == IMAGE:
            return "image"
        kind = "model_word" if self.plan.values[result].kind == "levels" else "model_int16"
        return f"({const}{kind} *)(base + {self.memory.offsets[result]})"

    # Constants.

    def _conv(self, step: Step) -> str:
        size = self.plan.size(step.source)
        conv = step.stem if isinstance(step.conv, nodes.StemNode) else step.binary_conv
        kernel = conv.weights if isinstance(conv, nodes.StemNode) else conv.signs
        kh, kw, features, out = kernel.shape
        rows = np.moveaxis(kernel, 3, 0)  # [out, kh, kw, in]
        fields: dict[str, object] = {"height": size.height, "width": size.width}
        fields |= {"out": out, "stride": conv.stride, "in": features, "kernel_height": kh, "kernel_width": kw}
        if isinstance(conv, nodes.StemNode):
            fields["weights"] = self.constants.array(f"weights_{step.result}", rows)
            fields["mean"] = self.constants.array(f"mean_{step.result}", conv.double_mean)
        else:
            fields["signs"] = self.constants.array(f"signs_{step.result}", packed(rows > 0, self.word_bits))
            fields |= {"words": self._words(features), "planes": self._planes(step.source)}
        return self.constants.struct("conv", f"conv_{step.result}", fields)

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
        channels, source = self.plan.values[step.result].channels, self._pointer(step.source)
        result, size = self._pointer(step.result, ""), self.plan.size(step.source)
        if isinstance(step.last, nodes.MaxPoolNode):
            return [_call("max_pool", source, f"{size.height}u", f"{size.width}u", f"{channels}u", result)]
        if isinstance(step.last, nodes.MeanPoolNode):
            return [_call("mean_pool", source, f"{size.height * size.width}u", f"{channels}u", result)]
        if isinstance(step.last, nodes.ClassifierNode):
            weights = self.constants.array("classifier_weights", step.last.weights.T)
            bias = self.constants.array("classifier_bias", step.last.bias)
            features = len(step.last.weights)
            return [_call("classify", source, weights, bias, f"{features}u", "MODEL_CLASSES", "logits")]
        return self._pointwise(t, step, channels)

    def _pointwise(self, t: int, step: Step, channels: int) -> list[str]:
        """Returns the loop over pixels, which makes a row of sums or of a stream, and then the result from it."""
        size = self.plan.size(step.result)
        read, write = self._read(step, channels), []
        if isinstance(step.last, nodes.RequantizeNode):
            write.append(_call("rescale", self._requantize(step), "row", f"{channels}u"))
        at = f"(y * {size.width}u + x) * {self._pixel_units(step.result)}u"
        result = f"{self._pointer(step.result, '')} + {at}"
        if isinstance(step.last, nodes.ThresholdsNode):
            write.append(_call("quantize", self._thresholds(step), "row", f"{channels}u", result))
        else:
            addend = "NULL" if step.addend is None else f"{self._pointer(step.addend)} + {at}"
            write.append(_call("write", "row", addend, int(step.relu), f"{channels}u", result))
        return [
            f"model_int32 *const row = (model_int32 *)(base + {self.memory.scratch[t]});",
            f"for (y = 0; y < {size.height}u; y++)",
            f"    for (x = 0; x < {size.width}u; x++) {{",
            *(f"        {line}" for line in [read, *write]),
            "    }",
        ]

    def _read(self, step: Step, channels: int) -> str:
        if step.conv is None:
            at = f"(y * {self.plan.size(step.source).width}u + x) * {channels}u"
            return _call("read", f"{self._pointer(step.source)} + {at}", f"{channels}u", "row")
        function = "stem" if isinstance(step.conv, nodes.StemNode) else "binary"
        return _call(function, self._conv(step), self._pointer(step.source), "y", "x", "row")


def _call(function: str, *arguments: object) -> str:
    return f"model_{function}({', '.join(map(str, arguments))});"


def packed(bits: np.ndarray, word_bits: int) -> np.ndarray:
    """Packs bits `[..., C]` into words: channel c is bit `c % word_bits` of word `c // word_bits`, then zeros."""
    channels = bits.shape[-1]
    padded = np.zeros((*bits.shape[:-1], -(-channels // word_bits), word_bits), np.uint64)
    padded.reshape(*bits.shape[:-1], -1)[..., :channels] = bits
    return (padded << np.arange(word_bits, dtype=np.uint64)).sum(-1).astype(f"uint{word_bits}")


def _word_bits(convs: Sequence[nodes.BinaryConvNode]) -> int:
    """Returns the bits of the widest word that wastes few of them; or 8, whatever a byte wastes."""
    for bits in (32, 16):
        used = [conv.signs.size / conv.signs.shape[2] for conv in convs]  # kh * kw * out
        needed = sum(n * conv.signs.shape[2] for n, conv in zip(used, convs, strict=True))
        spent = sum(n * bits * -(-conv.signs.shape[2] // bits) for n, conv in zip(used, convs, strict=True))
        if spent - needed <= _MAX_WASTE * spent:
            return bits
    return 8


def _row(plan: Plan, step: Step) -> int:
    """Returns the channels of the row that a loop over pixels works on; 0 for a step without such a loop."""
    pointwise = step.last is None or isinstance(step.last, nodes.ThresholdsNode | nodes.RequantizeNode)
    return plan.values[step.result].channels if pointwise else 0
