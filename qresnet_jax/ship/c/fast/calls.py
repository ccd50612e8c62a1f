"""Writes the calls of the profile `fast`, and for each size of a convolution a function that hands the size on as constants."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c import text
from qresnet_jax.ship.c.fast.bitplanes import ShiftedTaps, entries, lists_of, row_bytes
from qresnet_jax.ship.c.fast.layout import Layout
from qresnet_jax.ship.c.fast.structs import Structs, is_search
from qresnet_jax.ship.c.plan import IMAGE, Step
from qresnet_jax.ship.geometry import Window

_WIDTHS = (8, 16, 32, 64)  # bytes of vectors
_RESNET_POOL = Window.centered((3, 3), 2)
_PARAMETERS = {  # of the functions for each kind of result, and how they are passed on; `at` only if there is no table
    "levels": ("const model_thresholds *t, const uint8_t *from,{} uint8_t *levels", "t, from,{} levels"),
    "stream": (
        "const model_requantize *r, const uint8_t *from,{}\n    const model_int16 *addend, int relu, model_int16 *stream",
        "r, from,{} addend, relu, stream",
    ),
}


class _Sums(NamedTuple):
    """What the outputs of a convolution add up, and the sizes of the numbers.

    Args:
      conv: the address of the `model_conv`.
      at: the place of the taps or of the table.
      planes: bits of a tap or of an entry of the table.
      parts: parts of a list.
      inputs: taps or entries in the list of all.
      most: the most of an output.
      largest: the largest sum of an output.
      table: whether they are entries of a table.
    """

    conv: str
    at: str
    planes: int
    parts: int
    inputs: int
    most: int
    largest: int
    table: bool


class Calls:
    """Writes the calls for the steps of one layout.

    Args:
      layout: the layout of the plan that the steps belong to.
      structs: what writes the constants.

    Attributes:
      headers: the headers of the functions that are called.
      kernels: the functions for sizes of convolutions, by name.
    """

    def __init__(self, layout: Layout, structs: Structs) -> None:
        self.plan, self.layout, self.structs = layout.plan, layout, structs
        self.constants = structs.constants
        self.headers: set[str] = set()
        self.kernels: dict[str, str] = {}

    def all(self) -> list[str]:
        """Returns the lines of each step, under a comment with its name."""
        return [
            text.commented(self.plan.title(step), self._body(t, step))
            for t, step in enumerate(self.plan.steps)
        ]

    def _at(self, offset: int, kind: str, const: str = "const ") -> str:
        return f"({const}{kind} *)(base + {offset})"

    def _pointer(self, result: int, const: str = "const ") -> str:
        if result == IMAGE:
            return "image"
        if self.plan.values[result].kind == "levels":
            return f"base + {self.layout.place(result)}"
        return self._at(self.layout.place(result), "model_int16", const)

    def _use(self, header: str, function: str, *arguments: object) -> str:
        """Returns a call of a function, whose header is included then."""
        self.headers.add(header)
        return f"model_{function}({', '.join(map(str, arguments))});"

    def _body(self, t: int, step: Step) -> list[str]:
        if self.plan.is_dense(step):
            return self._dense(t, step)
        if isinstance(step.conv, nodes.StemNode):
            return self._stem(t, step)
        if isinstance(step.conv, nodes.BinaryConvNode):
            return self._binary(t, step)
        if isinstance(step.last, nodes.MaxPoolNode | nodes.MeanPoolNode):
            return [self._pool(t, step, step.last)]
        if isinstance(step.last, nodes.ConcatNode):
            return self._concat(step)
        if isinstance(step.last, nodes.ClassifierNode):
            return self._classifier(t, step, step.last)
        source = self._pointer(step.source)
        if isinstance(step.last, nodes.ThresholdsNode):
            quantizer = self.structs.quantizer(step, nodes.STREAM_MIN, nodes.STREAM_MAX)
            return [self._use("quantize.h", "quantize", quantizer, source, self._pointer(step.result))]
        rescale = "NULL" if step.last is None else self.structs.requantize(step)[0]
        pixels = 8 * self.layout.plane(step.result)
        sizes = f"{self.plan.values[step.result].channels}u, {pixels}u"
        return [self._use("stream.h", "stream", source, rescale, sizes, *self._written(step))]

    def _image(self, result: int) -> list[str]:
        """Returns channels, height, width, bytes of a row and of a plane of a stream."""
        size, channels = self.plan.size(result), self.plan.values[result].channels
        sizes = (channels, size.height, size.width, row_bytes(size.width), self.layout.plane(result))
        return [f"{n}u" for n in sizes]

    def _pool(self, t: int, step: Step, node: nodes.MaxPoolNode | nodes.MeanPoolNode) -> str:
        source, result = self._pointer(step.source), self._pointer(step.result, "")
        image, is_mean = self._image(step.source), isinstance(node, nodes.MeanPoolNode)
        if node.window is None:
            return self._use("stream.h", "mean_pool", source, *image, result)
        if self.plan.values[step.result].kind == "levels":
            window, places = self.structs.window(step), [f"base + {x}" for x in self._places(t, step)]
            return self._use("window.h", "max_levels", window, source, *places, result)
        if node.window == _RESNET_POOL and not is_mean:
            return self._use("stream.h", "max_pool", source, *image, *self._image(step.result)[-2:], result)
        return self._use("pool.h", "pool", self.structs.window(step), int(is_mean), source, result)

    def _concat(self, step: Step) -> list[str]:
        """Returns the copies of all inputs, one after the other."""
        sources, pixels = (step.source, *step.others), 8 * self.layout.plane(step.result)
        numbers = [pixels * self.plan.values[x].channels for x in sources]
        to = [f"{self._pointer(step.result, '')} + {n}" for n in itertools.accumulate(numbers, initial=0)]
        return [
            f"memcpy({place}, {self._pointer(x)}, {2 * n}u);"
            for place, x, n in zip(to, sources, numbers, strict=False)
        ]

    def _classifier(self, t: int, step: Step, node: nodes.ClassifierNode) -> list[str]:
        (place,) = self._places(t, step)
        weights = self.constants.array("classifier_weights", node.weights.T)
        bias = self.constants.array("classifier_bias", node.bias)
        sizes, flat = (f"{len(node.weights)}u", "MODEL_CLASSES"), self._at(place, "model_int16", "")
        return [
            self._use("stream.h", "flatten", self._pointer(step.source), *self._image(step.source), flat),
            self._use("../../classify.h", "classify", flat, weights, bias, *sizes, "logits"),
        ]

    def _places(self, t: int, step: Step) -> list[int]:
        """Returns the places of a step's working memories, see `Layout.scratch`."""
        return [*itertools.accumulate(self.layout.scratch(step), initial=self.layout.memory.scratch[t])][:-1]

    def _written(self, step: Step) -> tuple[str, int, str]:
        addend = "NULL" if step.addend is None else self._pointer(step.addend)
        return addend, int(step.relu), self._pointer(step.result, "")

    def _dense(self, t: int, step: Step) -> list[str]:
        source, (first, second) = self._pointer(step.source), self._places(t, step)
        sums = self._at(second, "model_int32", "")
        if isinstance(step.conv, nodes.StemNode):
            pixels = self._at(first, "model_int16", "")
            dense = self.structs.dense_stem(step)
            calls = [self._use("dense.h", "dense_stem_sums", dense, source, pixels, sums)]
        else:
            dense, bits = self.structs.dense(step), f"base + {first}"
            calls = [self._use("dense.h", "dense_bits", dense, source, bits)]
            calls.append(self._use("dense.h", "dense_sums", dense, bits, sums))
        if isinstance(step.last, nodes.ThresholdsNode):
            quantizer, result = self.structs.quantizer(step, -(2**31), 2**31 - 1), self._pointer(step.result)
            return [*calls, self._use("dense.h", "dense_levels", quantizer, sums, result)]
        rescale, _ = self.structs.requantize(step)
        channels = f"{self.plan.values[step.result].channels}u"
        return [*calls, self._use("dense.h", "dense_stream", rescale, sums, channels, *self._written(step))]

    def _stem(self, t: int, step: Step) -> list[str]:
        stem = self.structs.stem(step)
        first, second = self._places(t, step)
        pixels, sums = self._at(first, "model_int16", ""), self._at(second, "model_int32", "")
        calls = [self._use("stem.h", "stem_pixels", stem, "image", pixels)]
        if isinstance(step.last, nodes.ThresholdsNode):
            quantizer = self.structs.quantizer(step, -(2**31), 2**31 - 1)
            return [
                *calls,
                self._use("stem.h", "stem_levels", stem, quantizer, pixels, sums, self._pointer(step.result)),
            ]
        rescale, _ = self.structs.requantize(step)
        return [*calls, self._use("stem.h", "stem_stream", stem, rescale, pixels, sums, *self._written(step))]

    def _binary(self, t: int, step: Step) -> list[str]:
        """Makes the taps, for small planes also a table of their sums, then the sums of all output channels."""
        taps, choose = self.layout.taps(step), self.layout.table_choice(step)
        *_, copies, table = (f"base + {x}" for x in self._places(t, step))
        inputs, bound = taps.offsets(), self.plan.values[step.source].bound
        before, spread = self._spread(t, step, table=choose > 0)
        if choose == 0:
            found = lists_of(step, inputs, share=taps.planes <= 2)
            conv = self.structs.conv(step, [[x] for x in found.lists], [0], found.order)
            if not spread:  # the taps of all chunks are there already
                copies = f"{copies} + at * {taps.chunk // 8}u"
            sums = _Sums(
                conv, copies, taps.planes, 1, len(found.lists[0]), found.most, bound * found.most, False
            )
            loop = f"for (size_t at = 0; at < {taps.plane}u; at += {_chunk(taps.plane)}) {{"
            chunk = [*spread, self._kernel_call(step, found.polarity, sums)]
            return [*before, loop, *(f"    {line}" for line in chunk), "}"]
        calls = [*before, *spread]
        calls.append(self._use("table.h", "table", copies, self.structs.subset(step, choose, inputs), table))
        lists, moves = entries(step, choose, taps), sorted(set(taps.moves))
        conv, n = self.structs.conv(step, lists, moves), sum(len(part) for part in lists[0])
        largest = bound * step.binary_conv.signs[..., 0].size
        sums = _Sums(conv, table, 4, len(moves), n, n, largest, True)
        return [*calls, self._kernel_call(step, np.ones(len(lists) - 1, int), sums)]

    def _spread(self, t: int, step: Step, table: bool) -> tuple[list[str], list[str]]:
        """Returns the calls that make the taps of a binary convolution.

        Args:
          t, step: the step and its number.
          table: whether the taps are for a table, of planes of one chunk.

        Returns:
          The calls before all chunks, and those for the chunk at byte `at` of each plane.
        """
        taps, source, places = self.layout.taps(step), self._pointer(step.source), self._places(t, step)
        chunk, copies = "8u" if table else _chunk(taps.plane), f"base + {places[-2]}"
        if not isinstance(taps, ShiftedTaps):
            full, seen = (f"base + {x}" for x in places[:2])
            window = self.structs.window(step)
            return [self._use("window.h", "spread_window", window, source, chunk, full, seen, copies)], []
        spread, before = self.structs.spread(step, taps), []
        if taps.stride == 2:
            even, odd, phases = (f"base + {x}" for x in (*places[:2], places[2] + self.layout.slack))
            before.append(self._use("taps.h", "phases", spread, source, even, odd, phases))
            source = phases
        return before, [self._use("taps.h", "spread", spread, source, "0" if table else "at", chunk, copies)]

    def _kernel_call(self, step: Step, polarity: np.ndarray, sums: "_Sums") -> str:
        """Returns the call that computes all output channels, whose sums are to be multiplied by a polarity each."""
        assert step.last is not None  # the sums of a convolution are never stored
        bound, plane = self.plan.values[step.last.inputs[0]].bound, self.layout.plane(step.result)
        bits = max((bound + 1).bit_length() + 1, _count_bits(sums.inputs))
        sizes = [sums.planes, sums.parts, _count_bits(sums.inputs), _count_bits(sums.most), bits]
        sizes.append(max(sums.largest.bit_length(), 4))
        at = (sums.at,) if sums.table else (sums.at, "at")
        arguments: tuple[object, ...]
        if isinstance(step.last, nodes.ThresholdsNode):
            out_planes = self.plan.planes(step.result)
            sizes += [step.last.thresholds.shape[1], out_planes, int(is_search(step.last)), 0]
            compare = self.structs.compare(step, polarity, bound, bits, sums.table)
            kernel = self._kernel("levels", plane, sizes, sums.table)
            arguments = (compare, *at, self._pointer(step.result))
            of_groups = ["levels_groups", kernel, f"{bits}u", f"{out_planes}u"]
        else:
            rescale, narrow = self.structs.requantize(step, polarity, bound)
            kernel = self._kernel("stream", plane, [*sizes, 0, 0, 0, int(narrow)], sums.table)
            arguments = (rescale, *at, *self._written(step))
            of_groups = ["stream_groups", kernel]
        if step.binary_conv.groups > 1:
            return self._use("groups.h", *of_groups, sums.conv, *arguments)
        return f"{kernel}({', '.join(map(str, (sums.conv, *arguments)))});"

    def _kernel(self, kind: str, plane: int, sizes: Sequence[int], table: bool) -> str:
        """Returns the name of the function for these sizes, which takes the vectors that fit a plane best."""
        self.headers.add("table.h" if table else "conv.h")
        widths = [w for w in reversed(_WIDTHS) if w == 8 or plane > w // 2]
        name = f"model_{kind}_{'_'.join(map(str, ['table' if table else widths[0], *sizes]))}"
        parameters, arguments = (
            x.format("" if table else at)
            for x, at in zip(_PARAMETERS[kind], (" size_t at,", " at,"), strict=True)
        )
        constants = "{" + ", ".join(f"{size}u" for size in sizes) + "}"
        lines = [f"static void {name}(const model_conv *conv, {parameters})", "{"]
        lines.append(f"    const model_bits bits = {constants};")
        for i, width in enumerate([] if table else widths):
            if len(widths) > 1:
                condition = f"MODEL_VECTOR >= {width} || MODEL_VECTOR == 8"
                lines.append("#else" if width == 8 else f"#{'elif' if i else 'if'} {condition}")
            lines.append(f"    model_conv_{kind}_vec{width}(conv, bits, {arguments});")
        lines += ["#endif"] * (len(widths) > 1 and not table)
        lines += [f"    model_conv_{kind}_table(conv, bits, {arguments});"] * table + ["}\n"]
        self.kernels[name] = "\n".join(lines)
        return name


def _chunk(plane: int) -> str:
    """Returns the bytes of a chunk of a plane, which depend on the vectors of the machine."""
    return f"MODEL_CHUNK({plane}u)"


def _count_bits(n: int) -> int:
    """Returns the bits that count n taps. It is at least 4, as `model_count_vec` writes so many."""
    return max(int(n).bit_length(), 4)
