"""The profile `small` of the C export: one bit per weight, little code and memory, 32 pixels at once.

A word holds a bit of 32 pixels. A convolution lists the taps that an output adds up, from the signs' bits, and adds their words up
with full adders, which needs neither multiplications nor population counts. All other layers work on the numbers of 32 pixels
of one channel. The code is in the headers of this folder, where `words.h` says how the data lie; this module writes what
differs from network to network, which is constants and calls.
"""

import itertools
import math
import pathlib
from collections.abc import Mapping

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c import text
from qresnet_jax.ship.c.plan import IMAGE, Memory, Plan, Step, allocate
from qresnet_jax.ship.c.small.structs import PIXELS, Structs, pool_window

ALIGN = 4  # bytes; everything in the buffer is aligned to it
_HEADERS = ("words.h", "numbers.h", "stem.h", "conv.h", "dense.h", "pool.h", "../classify.h")
_NARROW_MEAN = 2**15  # pixels of a window whose sums fit 32 bits in `model_mean_stream`
_PLANES = 32  # MODEL_PLANES of conv.h
_MOST_TILES = 16  # more tiles for one list of taps save nothing that matters
_SPARE = 1 / 10  # the share of the buffer that may be spent on more tiles


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
        self.constants = text.Constants()
        self.structs = Structs(plan, self.constants)
        self.slack = max((_reach(plan, step) for step in plan.steps), default=0) // PIXELS + 2
        convs = [step for step in plan.steps if self._is_conv(step)]
        largest = max((_inputs(step) * self.plan.planes(step.source) for step in convs), default=0)
        self.index_bits = 16 if largest < 2**16 else 32
        self.tiles = self._choose_tiles(convs)
        self.memory = self._memory(self.tiles)
        self.buffer_bytes = self.memory.nbytes + ALIGN - 1
        self.calls = [self._step(t, step) for t, step in enumerate(plan.steps)]
        self.weight_bytes = self.constants.nbytes

    def source(self) -> str:
        """Returns the text between the head of `model.c` and the class names."""
        return text.amalgamated(self.program(), pathlib.Path(__file__).parent)

    def program(self) -> str:
        """Returns the same text with `#include` lines for the headers of this folder."""
        sizes = {"SLACK": self.slack, "INDEX_BITS": self.index_bits, "MEAN_BITS": _mean_bits(self.plan)}
        head = "".join(f"#define MODEL_{name} {n}\n" for name, n in sizes.items())
        head += "\n" + "".join(f'#include "{name}"\n' for name in _HEADERS)
        return "\n".join([head, self.constants.text(), self._function()])

    def _function(self) -> str:
        return text.logits_function(ALIGN, self.calls)

    # Memory.

    def _is_conv(self, step: Step) -> bool:
        return isinstance(step.conv, nodes.BinaryConvNode) and not self.plan.is_dense(step)

    def _choose_tiles(self, convs: list[Step]) -> dict[int, int]:
        """Returns for the result of each convolution for how many tiles its lists of taps are used.

        Listing takes time, and the taps of each tile take memory. So there are as many tiles as fit the memory that the network
        needs with one tile for each, and a little more.
        """
        tiles = {step.result: 1 for step in convs}
        budget = self._memory(tiles).nbytes * (1 + _SPARE)
        for step in convs:
            most = min(-(-self._pixels(step.result) // PIXELS), _MOST_TILES)
            for wanted in range(most, 1, -1):
                if self._memory({**tiles, step.result: wanted}).nbytes <= budget:
                    tiles[step.result] = wanted
                    break
        return tiles

    def _memory(self, tiles: Mapping[int, int]) -> Memory:
        sizes = {step.result: self._nbytes(step.result) for step in self.plan.steps}
        return allocate(
            self.plan.steps, sizes, [self._scratch(step, tiles) for step in self.plan.steps], ALIGN
        )

    def _pixels(self, result: int) -> int:
        size = self.plan.size(result)
        return size.height * size.width

    def _nbytes(self, result: int) -> int:
        value, pixels = self.plan.values[result], self._pixels(result)
        if value.kind == "levels":
            words = value.channels * self.plan.planes(result) * -(-pixels // PIXELS)
            return 4 * (words + 2 * self.slack)
        return {"stream": 2 * value.channels * pixels, "logits": 0}[value.kind]

    def _scratch(self, step: Step, tiles: Mapping[int, int]) -> int:
        """Returns the bytes of a step's working memory, which the headers describe."""
        if isinstance(step.conv, nodes.StemNode):
            return 2 * self.structs.pitch(step.result) * (_inputs(step) + _inputs(step) % 2)
        if step.result in tiles:
            planes = self.plan.planes(step.source)
            words = (_inputs(step) + 1) * planes + _PLANES
            return 4 * tiles[step.result] * words + self.index_bits // 8 * (_inputs(step) + 12)
        if isinstance(step.conv, nodes.BinaryConvNode):
            inputs = self.plan.values[step.source].channels * self._pixels(step.source)
            return 4 * self.plan.planes(step.source) * -(-inputs // PIXELS)
        if isinstance(step.last, nodes.MaxPoolNode) and self.plan.values[step.result].kind == "levels":
            return 4 * self.plan.values[step.result].channels * self.plan.planes(step.result)
        return 0

    def _pointer(self, result: int, const: str = "const ") -> str:
        if result == IMAGE:
            return "image"
        offset = self.memory.offsets[result]
        if self.plan.values[result].kind == "levels":
            return f"({const}model_word *)(base + {offset + 4 * self.slack})"
        return f"({const}model_int16 *)(base + {offset})"

    # Calls.

    def _step(self, t: int, step: Step) -> str:
        return text.commented(self.plan.title(step), self._body(t, step))

    def _body(self, t: int, step: Step) -> list[str]:
        """Returns the calls that compute a step."""
        source, result = self._pointer(step.source), self._pointer(step.result, "")
        work, last = f"(model_word *)(base + {self.memory.scratch[t]})", step.last
        channels = f"{self.plan.values[step.result].channels}u"
        if isinstance(last, nodes.ClassifierNode):
            return [self._classifier(step, last)]
        if isinstance(last, nodes.ConcatNode):
            return self._concat(step)
        if isinstance(last, nodes.MaxPoolNode | nodes.MeanPoolNode):
            window = self.structs.pool(step)
            if self.plan.values[step.result].kind == "levels":
                planes = f"{self.plan.planes(step.result)}u"
                return [_call("max_levels", window, source, channels, planes, work, result)]
            function = "max_stream" if isinstance(last, nodes.MaxPoolNode) else "mean_stream"
            return [_call(function, window, source, channels, result)]
        addend = "NULL" if step.addend is None else self._pointer(step.addend)
        if isinstance(step.conv, nodes.StemNode):
            return [_call("stem", self.structs.stem(step), source, addend, result, work)]
        if self._is_conv(step):
            conv = self.structs.conv(step, self.tiles[step.result])
            return [_call("convolve", conv, source, addend, result, work)]
        if isinstance(step.conv, nodes.BinaryConvNode):
            return [_call("dense_layer", self.structs.dense(step), source, addend, result, work)]
        return [_call("stream", self.structs.output(step), source, addend, result)]

    def _classifier(self, step: Step, node: nodes.ClassifierNode) -> str:
        size, channels = self.plan.size(step.source), self.plan.values[step.source].channels
        weights = node.weights.reshape(size.height, size.width, channels, -1).transpose(3, 2, 0, 1)
        arrays = [
            self.constants.array("classifier_weights", weights),
            self.constants.array("classifier_bias", node.bias),
        ]
        features = f"{len(node.weights)}u"
        return _call("classify", self._pointer(step.source), *arrays, features, "MODEL_CLASSES", "logits")

    def _concat(self, step: Step) -> list[str]:
        """Returns the copies of all inputs, one after the other."""
        sources = (step.source, *step.others)
        numbers = [self.plan.values[x].channels * self._pixels(x) for x in sources]
        to = [
            f"{self._pointer(step.result, '')} + {n}u" for n in itertools.accumulate(numbers[:-1], initial=0)
        ]
        return [
            f"memcpy({place}, {self._pointer(x)}, {2 * n}u);"
            for place, x, n in zip(to, sources, numbers, strict=True)
        ]


def _call(function: str, *arguments: object) -> str:
    return f"model_{function}({', '.join(map(str, arguments))});"


def _inputs(step: Step) -> int:
    """Returns how many inputs an output of a convolution has."""
    if isinstance(step.conv, nodes.StemNode):
        return step.conv.weights[..., 0].size
    return step.binary_conv.signs[..., 0].size


def _reach(plan: Plan, step: Step) -> int:
    """Returns how many pixels before or after a tile a window of levels reads at most."""
    if plan.is_dense(step) or isinstance(step.conv, nodes.StemNode):
        return 0
    node = step.conv or step.last
    if not isinstance(node, nodes.BinaryConvNode | nodes.MaxPoolNode):
        return 0
    if plan.values[step.source].kind != "levels":
        return 0
    rows, columns = node.window.size
    return rows * plan.size(step.source).width + columns


def _mean_bits(plan: Plan) -> int:
    """Returns the bits that the sums of all means need."""
    means = [step for step in plan.steps if isinstance(step.last, nodes.MeanPoolNode)]
    largest = max((math.prod(pool_window(plan, step).size) for step in means), default=0)
    return 32 if largest <= _NARROW_MEAN else 64
