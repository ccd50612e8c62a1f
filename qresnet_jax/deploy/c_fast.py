"""The profile `fast` of the C export: bit-sliced, all pixels of a bit plane at once.

A level is a few bits; bit b of one channel is a plane of one bit a pixel, and a vector register holds up to 512 pixels.
Shifted copies of the planes are the taps of a convolution. An output channel adds up the planes of its minority sign,

    acc = all - 2 * minus = 2 * plus - all,     all = sum of all inputs, the same for every output channel,

by full adders on whole planes (carry-save adders in blocks of 16, Harley and Seal), so that no multiplication and no
population count is left. Thresholds are carries of comparisons with constants. The stream is int16, channel by channel.
The code is `c/fast_*.c`; this module prints the constants and the calls.
"""

import re

import numpy as np

from qresnet_jax.deploy import c_text, nodes
from qresnet_jax.deploy.c_bitplanes import (
    ALIGN,
    Spread,
    entries,
    grouped,
    minority,
    plane_bytes,
    row_bytes,
    saturation,
)
from qresnet_jax.deploy.c_plan import IMAGE, Plan, Step, allocate

_WIDTHS = (64, 32, 16, 8)
_ORDER = [
    "types",
    "words",
    "spread_planes",
    "unpack",
    "rescale",
    "rescale_narrow",
    "write",
    "vector",
    "subsets",
    "table",
    "kernel",
    "quantize",
    "quantize_sums",
    "stem",
    "stem_levels",
    "stem_stream",
    "stream",
    "max_pool",
    "mean_pool",
    "classify",
]
_PARAMETERS = {  # of functions in the section `vector`, and how they are passed on
    "levels": ("const model_thresholds *t, const uint8_t *from, uint8_t *levels", "t, from, levels"),
    "stream": (
        "const model_requantize *r, const uint8_t *from,\n    const model_int16 *addend, int relu, model_int16 *stream",
        "r, from, addend, relu, stream",
    ),
}
_WORD_SECTIONS = {"spread_planes", "unpack", "quantize"}


class FastProfile:
    """The parts of `model.c` for one plan.

    Args:
      plan: of the network, for the size of its images.

    Attributes:
      buffer_bytes: that the code needs, for any alignment of the pointer.
      weight_bytes: of all constant arrays.
    """

    def __init__(self, plan: Plan):
        self.plan = plan
        self.constants = c_text.Constants()
        self.offset_bits = _offset_bits(plan)
        convs = [step.conv for step in plan.steps if isinstance(step.conv, nodes.BinaryConv)]
        # What is read beyond the ends of a plane: the shift to one side, a vector to the other.
        self.slack = ALIGN * (3 + max((conv.signs.shape[1] for conv in convs), default=0) // 512)
        sizes = {step.result: self._nbytes(step.result) for step in plan.steps}
        self.memory = allocate(plan.steps, sizes, [self._scratch(step) for step in plan.steps], ALIGN)
        self.buffer_bytes = self.memory.nbytes + ALIGN - 1
        self.used = {"types"}
        self.kernels: dict[str, str] = {}
        self.calls = [self._call(t, step) for t, step in enumerate(plan.steps)]
        self.weight_bytes = self.constants.nbytes

    def source(self) -> str:
        """The text between the includes and the class names."""
        if self.used & _WORD_SECTIONS:
            self.used.add("words")
        found = c_text.sections("fast_planes.c", "fast_sums.c", "fast_stream.c")
        code = [_every_width(name, found[name]) for name in _ORDER if name in self.used]
        head = f"typedef uint{self.offset_bits}_t model_offset;\n"
        return (
            "\n".join([head, *code, *self.kernels.values(), self.constants.text()]) + "\n" + self._function()
        )

    def _function(self):
        return (
            "void model_logits(const uint8_t *image, int32_t *logits, void *buffer)\n{\n"
            f"    uint8_t *const base = (uint8_t *)buffer + (0u - (uintptr_t)buffer) % {ALIGN}u;\n"
            + "\n".join(self.calls)
            + "}\n"
        )

    # Layout.

    def _planes(self, result):
        return max(self.plan.values[result].bound.bit_length(), 1)

    def _nbytes(self, result):
        value, pixels = self.plan.values[result], 8 * plane_bytes(self.plan.size(result))
        if value.kind == "levels":
            return value.channels * self._planes(result) * pixels // 8 + 2 * self.slack
        return {"stream": 2 * value.channels * pixels + self.slack, "mean": 2 * value.channels, "logits": 0}[
            value.kind
        ]

    def _scratch(self, step):
        if isinstance(step.conv, nodes.Stem):
            return self._stem_pixels(step) + self._stem_row(step)
        if isinstance(step.conv, nodes.BinaryConv):
            return self._copies_at(step) + self._copies(step) + self._table(step)
        return 0

    def _spread(self, step):
        size = self.plan.size(step.source)
        return Spread(step.conv, size.height, size.width)

    def _half(self, step):
        """Bytes of the even or the odd columns of a plane, and slack."""
        spread = self._spread(step)
        return self.slack + -(-spread.height * row_bytes(spread.out.width) // ALIGN) * ALIGN

    def _copies_at(self, step):
        """Bytes of slack, even and odd columns, and rows of both, which come first in the scratch at stride 2."""
        return self.slack + 4 * self._half(step)

    def _copies(self, step):
        return -(-self._planes(step.source) * self._spread(step).group // ALIGN) * ALIGN + self.slack

    def _table(self, step):
        choose = self._table_choice(step)
        if choose == 0:
            return 0
        kh, kw, channels, _ = step.conv.signs.shape
        return 32 * 2**choose * kh * kw * -(-channels // choose) + self.slack

    def _stem_pitch(self, step):
        """Pixels of a row: blocks of 32 and what a kernel sees beyond."""
        row = 8 * row_bytes(self.plan.size(step.result).width)
        return -(-row // 32) * 32 + step.conv.weights.shape[1]

    def _stem_pixels(self, step):
        kh, _, channels, _ = step.conv.weights.shape
        rows = self.plan.height + kh - 1
        nbytes = 4 * -(-channels // 2) * step.conv.stride * rows * self._stem_pitch(step)
        return -(-nbytes // ALIGN) * ALIGN + ALIGN

    def _stem_row(self, step):
        return 4 * self._stem_pitch(step)

    def _at(self, offset, kind, const="const "):
        return f"({const}{kind} *)(base + {offset})"

    def _pointer(self, result, const="const "):
        if result == IMAGE:
            return "image"
        if self.plan.values[result].kind == "levels":
            return f"base + {self.memory.offsets[result] + self.slack}"
        return self._at(self.memory.offsets[result], "model_int16", const)

    # Constants.

    def _mask(self, result):
        """Of the pixels of a plane, and zeros for a vector more."""
        size = self.plan.size(result)
        bits = np.zeros((size.height, 8 * row_bytes(size.width)), bool)
        bits[:, : size.width] = True
        packed = np.packbits(bits.ravel(), bitorder="little")
        return self.constants.array(f"mask_{result}", np.pad(packed, (0, -len(packed) % ALIGN)))

    def _spread_struct(self, step):
        spread, i = self._spread(step), step.result
        fields = {
            "height": spread.height,
            "row": row_bytes(spread.width),
            "out_height": spread.out.height,
            "out_row": row_bytes(spread.out.width),
            "channels": spread.channels,
            "planes": self._planes(step.source),
            "stride": spread.stride,
            "columns": len(spread.shifts),
            "pitch": spread.pitch,
            "group": spread.group,
            "odd": self.constants.array(f"odd_{i}", np.array(spread.odd, np.uint8)),
            "parity": self.constants.array(f"parity_{i}", np.array(spread.parity, np.int8)),
            "shift": self.constants.array(f"moves_{i}", np.array(spread.shifts, np.int16)),
            "mask": self.constants.array(f"columns_{i}", spread.masks()),
        }
        return self.constants.struct("spread", f"spread_{i}", fields)

    def _conv_struct(self, step, lists, group):
        i, padded = step.result, [np.pad(x, (0, -len(x) % 8)) for x in lists]
        fields = {
            "lists": self.constants.array(
                f"lists_{i}", np.concatenate(padded).astype(f"uint{self.offset_bits}")
            ),
            "counts": self.constants.array(f"counts_{i}", np.array([len(x) for x in padded], np.uint32)),
            "mask": self._mask(i),
            "out": len(lists) - 1,
            "group": group,
            "plane": plane_bytes(self.plan.size(i)),
        }
        return self.constants.struct("conv", f"conv_{i}", fields)

    def _compare_struct(self, step, polarity, bound, bits):
        """Thresholds of sums in bit planes, with 2**(bits - 1) added."""
        node, i = step.last, step.result
        channels = self.plan.values[i].channels
        direction = np.broadcast_to(node.direction, channels).astype(np.int64) * polarity
        t = np.clip(np.broadcast_to(node.thresholds, (channels, node.thresholds.shape[1])), -bound, bound + 1)
        # -x >= t is not x >= 1 - t; all steps not taken make the highest level.
        least = np.where(direction[:, None] > 0, t, 1 - t.astype(np.int64)) + 2 ** (bits - 1)
        fields = {
            "at_least": self.constants.array(f"steps_{i}", least.astype(np.uint32)),
            "select": self.constants.array(f"select_{i}", _select(node)),
            "first": self.constants.array(
                f"first_{i}", np.where(direction > 0, 0, node.levels[-1]).astype(np.uint16)
            ),
        }
        return self.constants.struct("thresholds", f"thresholds_{i}", fields)

    def _quantizer_struct(self, step, low, high):
        """Thresholds of numbers from low to high, which is all that their type holds."""
        node, i = step.last, step.result
        t, falling = node.thresholds.astype(np.int64), node.direction[:, None] < 0
        # x >= t is x > t - 1, and -x >= t is not x > -t.
        above = np.where(falling, -t, t - 1)
        # Below the lowest number all is above: not above the highest, which nothing is.
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
            "planes": self._planes(i),
            "channels": self.plan.values[i].channels,
            "plane": plane_bytes(self.plan.size(i)),
        }
        return self.constants.struct("quantizer", f"thresholds_{i}", fields)

    def _requantize_struct(self, step, polarity=1, narrow_bound=None):
        """Of polarity * x; with a bound of x, 32 bits will do if they hold all intermediate results.

        Returns:
          The struct, and whether 32 bits do.
        """
        node, i = step.last, step.result
        m, c, k = (x.astype(np.int64) for x in (node.multiplier, node.offset, node.shift))
        narrow = narrow_bound is not None and narrow_bound < 2**15 and bool(np.all((k >= 1) & (k <= 31)))
        narrow = narrow and bool(np.all(narrow_bound * np.abs(m) + np.abs(c) < 2**31))
        m = m * polarity
        bound = self.plan.values[node.inputs[0]].bound
        if narrow:
            arrays = {"offset": (c + 2**31).astype(np.uint32)}
        elif np.all(np.abs(m) >> k < 2**29):
            limits = [
                saturation(*channel, bound)
                for channel in zip(m.tolist(), c.tolist(), k.tolist(), strict=True)
            ]
            m, offset, low, high, zero = (np.array(x) for x in zip(*limits, strict=True))
            arrays = {"wide_offset": offset.astype(np.uint64)}
            arrays |= {n: x.astype(np.int32) for n, x in (("low", low), ("high", high), ("zero", zero))}
        else:
            arrays = {"wide_offset": c.astype(np.uint64) + np.uint64(2**63)}
        arrays |= {"multiplier": m.astype(np.int32), "shift": node.shift}
        fields = {name: self.constants.array(f"{name}_{i}", x) for name, x in arrays.items()}
        return self.constants.struct("requantize", f"requantize_{i}", fields), narrow

    # Calls.

    def _use(self, section, *arguments):
        self.used.add(section)
        return f"model_{section}({', '.join(map(str, arguments))});"

    def _call(self, t, step: Step):
        name = self.plan.network.nodes[step.result].name
        lines = [f"/* {c_text.comment(name or type(self.plan.network.nodes[step.result]).__name__)} */"]
        return "".join(f"    {line}\n" for line in [*lines, *self._body(t, step)])

    def _body(self, t, step):
        if isinstance(step.conv, nodes.Stem):
            return self._stem(t, step)
        if isinstance(step.conv, nodes.BinaryConv):
            return self._binary(t, step)
        channels, source = self.plan.values[step.result].channels, self._pointer(step.source)
        result, size = self._pointer(step.result, ""), self.plan.size(step.source)
        image = (f"{size.height}u", f"{size.width}u", f"{row_bytes(size.width)}u")
        if isinstance(step.last, nodes.MaxPool):
            out_row = row_bytes(self.plan.size(step.result).width)
            return [self._use("max_pool", source, f"{channels}u", *image, f"{out_row}u", result)]
        if isinstance(step.last, nodes.MeanPool):
            return [self._use("mean_pool", source, f"{channels}u", *image, result)]
        if isinstance(step.last, nodes.Classifier):
            weights = self.constants.array("classifier_weights", step.last.weights.T)
            bias = self.constants.array("classifier_bias", step.last.bias)
            return [self._use("classify", source, weights, bias, f"{len(step.last.weights)}u", "logits")]
        if isinstance(step.last, nodes.Thresholds):
            quantizer = self._quantizer_struct(step, nodes.STREAM_MIN, nodes.STREAM_MAX)
            return [self._use("quantize", quantizer, source, result)]
        self.used |= {"rescale", "write"}
        rescale = "NULL" if step.last is None else self._requantize_struct(step)[0]
        pixels = f"{channels}u, {8 * plane_bytes(size)}u"
        return [self._use("stream", source, rescale, pixels, *self._written(step))]

    def _written(self, step):
        addend = "NULL" if step.addend is None else self._pointer(step.addend)
        return addend, int(step.relu), self._pointer(step.result, "")

    def _stem(self, t, step):
        conv, out = step.conv, self.plan.size(step.result)
        kh, kw, channels, outputs = conv.weights.shape
        pairs = np.zeros((outputs, kh, kw, channels + channels % 2), np.int16)
        pairs[..., :channels] = np.moveaxis(conv.weights, 3, 0)
        pitch, rows = self._stem_pitch(step), self.plan.height + kh - 1
        i, j, p = np.indices((kh, kw, (channels + 1) // 2))
        taps = (p * conv.stride + j % conv.stride) * rows * pitch + i * pitch + j // conv.stride
        fields = {
            "weights": self.constants.array(f"weights_{step.result}", pairs),
            "taps": self.constants.array(f"taps_{step.result}", taps.astype(np.uint32)),
            "mean": self.constants.array(f"mean_{step.result}", conv.double_mean),
            "height": self.plan.height,
            "width": self.plan.width,
            "channels": channels,
            "kernel_height": kh,
            "kernel_width": kw,
            "stride": conv.stride,
            "rows": rows,
            "pitch": pitch,
            "out": outputs,
            "out_height": out.height,
            "out_row": row_bytes(out.width),
        }
        stem = self.constants.struct("stem", f"stem_{step.result}", fields)
        scratch = self.memory.scratch[t]
        pixels = self._at(scratch, "model_int16", "")
        sums = self._at(scratch + self._stem_pixels(step), "model_int32", "")
        self.used.add("stem")
        calls = [f"model_stem_pixels({stem}, image, {pixels});"]
        if isinstance(step.last, nodes.Thresholds):
            self.used.add("quantize_sums")
            quantizer = self._quantizer_struct(step, -(2**31), 2**31 - 1)
            return [
                *calls,
                self._use("stem_levels", stem, quantizer, pixels, sums, self._pointer(step.result)),
            ]
        self.used |= {"rescale", "write"}
        rescale, _ = self._requantize_struct(step)
        return [*calls, self._use("stem_stream", stem, rescale, pixels, sums, *self._written(step))]

    def _binary(self, t, step):
        """Copies of the planes, for small planes a table of their sums, then the sums of all output channels."""
        spread, scratch = self._spread(step), self.memory.scratch[t]
        halves = [f"base + {scratch + self.slack + k * self._half(step)}" for k in range(4)]
        copies = scratch + self._copies_at(step)
        self.used |= {"unpack", "rescale", "rescale_narrow", "write", "vector", "table", "kernel"}
        pairs = [f"(uint8_t *[2]){{{a}, {b}}}" for a, b in (halves[:2], halves[2:])]
        planes = [self._pointer(step.source), *pairs, f"base + {copies}"]
        calls = [self._use("spread_planes", self._spread_struct(step), *planes)]
        bound, inputs = self.plan.values[step.source].bound, spread.offsets()
        choose = self._table_choice(step)
        if choose == 0:
            polarity, lists = minority(step, inputs)
            source, group, at = (1, self._planes(step.source)), spread.group, f"base + {copies}"
        else:
            at = f"base + {copies + self._copies(step)}"
            self.used.add("subsets")
            calls.append(f"model_table(base + {copies}, {self._subset_struct(step, choose)}, {at});")
            polarity, lists = entries(step, choose)
            source, group = (32, 4), 8
        largest = bound * (max(len(x) for x in lists[1:]) if choose == 0 else inputs.size)
        return [*calls, self._kernel_call(step, polarity, lists, source, group, largest, at)]

    def _subset_struct(self, step, choose):
        """Of the table of sums: inputs in groups of `choose`, none of which spans two taps."""
        spread, i = self._spread(step), step.result
        moved = [row // spread.stride for row in spread.rows]
        middle = {row % spread.stride: k for k, row in enumerate(spread.rows) if moved[k] == 0}
        source = [middle[row % spread.stride] for row in spread.rows]
        inputs = grouped(spread.offsets(), choose)[[k for k, m in enumerate(moved) if m == 0]]
        shift = np.array(moved) * 8 * row_bytes(spread.out.width)
        fields = {
            "inputs": self.constants.array(f"inputs_{i}", inputs.astype(f"uint{self.offset_bits}")),
            "source": self.constants.array(f"source_{i}", np.array(source, np.uint8)),
            "shift": self.constants.array(f"rows_{i}", shift.astype(np.int16)),
            "mask": self._mask(i),
            "rows": len(source),
            "groups": inputs[0].size // choose,
            "group": spread.group,
            "choose": choose,
            "planes": self._planes(step.source),
        }
        return self.constants.struct("subset", f"subset_{i}", fields)

    def _kernel_call(self, step, polarity, lists, source, group, largest, at):
        """Args: of each output `polarity` and list; `largest` sum of one; (scale, planes) of what lies at `at`."""
        bound = self.plan.values[step.last.inputs[0]].bound
        bits = max((bound + 1).bit_length() + 1, _count_bits(len(lists[0])))
        conv, plane = self._conv_struct(step, lists, group), plane_bytes(self.plan.size(step.result))
        sizes = [*source, _count_bits(len(lists[0])), _count_bits(max(len(x) for x in lists[1:])), bits]
        sizes.append(max(largest.bit_length(), 4))
        if isinstance(step.last, nodes.Thresholds):
            sizes += [step.last.thresholds.shape[1], self._planes(step.result), 0]
            compare = self._compare_struct(step, polarity, bound, bits)
            return f"{self._kernel('levels', plane, sizes)}({conv}, {compare}, {at}, {self._pointer(step.result)});"
        rescale, narrow = self._requantize_struct(step, polarity, bound)
        kernel = self._kernel("stream", plane, [*sizes, 0, 0, int(narrow)])
        return f"{kernel}({conv}, {rescale}, {at}, {', '.join(map(str, self._written(step)))});"

    def _table_choice(self, step):
        """Inputs of an entry; 0 where no table pays: large planes, few outputs, or levels beyond 4 bits."""
        largest = self.plan.values[step.source].bound
        if plane_bytes(self.plan.size(step.result)) > 8 or step.conv.signs.shape[3] < 8 or largest > 15:
            return 0
        return min(15 // largest, 4)

    def _kernel(self, kind, plane, sizes):
        """Name of the function for these sizes, which is written once, with the vector that fits a plane best."""
        widths = [w for w in _WIDTHS if w == _WIDTHS[-1] or plane > w // 2]
        name = f"model_{kind}_{'_'.join(map(str, [widths[0], *sizes]))}"
        parameters, arguments = _PARAMETERS[kind]
        constants = "{" + ", ".join(f"{size}u" for size in sizes) + "}"
        lines = [f"static void {name}(const model_conv *conv, {parameters})", "{"]
        lines.append(f"    const model_bits bits = {constants};")
        for i, width in enumerate(widths):
            last = width == _WIDTHS[-1]
            if len(widths) > 1:
                lines.append("#else" if last else f"#{'elif' if i else 'if'} MODEL_VECTOR >= {width}")
            variant = "table" if sizes[0] > 1 else f"vec{width}"
            lines.append(f"    model_conv_{kind}_{variant}(conv, bits, {arguments});")
        lines += ["#endif"] * (len(widths) > 1) + ["}\n"]
        self.kernels[name] = "\n".join(lines)
        return name


def _count_bits(n):
    """Of the number of planes in a list; `model_count` writes at least 4 bits."""
    return max(int(n).bit_length(), 4)


def _select(node):
    """Bits of the level that change at each threshold, uint16."""
    return (node.levels[1:] ^ node.levels[:-1]).astype(np.uint16)


def _offset_bits(plan):
    """16 if that holds all offsets of copies, else 32."""
    convs = [step for step in plan.steps if isinstance(step.conv, nodes.BinaryConv)]
    sizes = [(step.conv, plan.size(step.source)) for step in convs]
    spreads = [Spread(conv, size.height, size.width) for conv, size in sizes]
    largest = max((max(s.group, 16 * s.inputs) for s in spreads), default=0)
    return 16 if largest < 2**16 else 32


def _every_width(name, section):
    """A section; those for vectors once for each number of bytes."""
    if name not in ("vector", "kernel"):
        return section
    parts = [_of_width(section, width) for width in _WIDTHS]
    if name == "kernel":  # as for 8 bytes, but sums come from tables
        parts.append(_of_width(section.replace("model_sum_vec", "model_sum_table"), 8, "table"))
    return "\n".join(parts)


def _of_width(section, width, suffix=None):
    name = f"model_vec{width}"
    typedef = f"typedef uint64_t {name}"
    if width > 8:
        typedef += f" __attribute__((vector_size({width})))"
    bits = "" if width == 16 else 8 * width
    for old, new in (
        ("MODEL_BYTES_vec", str(width)),
        ("MODEL_TYPE_vec", f"{typedef};"),
        ("MODEL_TERNARY_vec", f"_mm{bits}_ternarylogic_epi64"),
        ("MODEL_INTEL_vec", f"__m{8 * width}i"),
    ):
        section = section.replace(old, new)
    types = re.sub(r"\bmodel_(vec|load_vec)\b|\bMODEL_(\w+)_vec\b", rf"\g<0>{width}", section)
    return re.sub(r"_vec\b", f"_{suffix or f'vec{width}'}", types)
