"""Says where the profile `fast` keeps its data in the buffer: results, taps, phases, tables and the stem's pixels."""

from collections.abc import Sequence

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.fast.bitplanes import ALIGN, ShiftedTaps, Taps, View, plane_bytes, row_bytes, stored
from qresnet_jax.ship.c.plan import Plan, Size, Step, allocate

STEM_OUTPUTS, STEM_PIXELS = 16, 16  # the largest MODEL_STEM_OUTPUTS and MODEL_STEM_PIXELS of stem.h


class Layout:
    """The layout of the buffer for one plan.

    Args:
      plan: the steps of the network for one size of images.
      inputs, outputs: results of earlier steps, and those that later steps read; see `allocate`.
      images: the images that lie one below the other in all results.

    Attributes:
      slack: bytes before and after bit planes, which taps read.
      memory: places of results and working memories.
      offset_bits: 16 if that holds all offsets of taps and entries, else 32.
    """

    def __init__(
        self, plan: Plan, inputs: Sequence[int] = (), outputs: Sequence[int] = (), images: int = 1
    ) -> None:
        self.plan, self.images = plan, images
        convs = [s for s in plan.steps if isinstance(s.conv, nodes.BinaryConvNode) and not plan.is_dense(s)]
        taps = [self.taps(step) for step in convs]
        self.slack = aligned(max((x.reach() for x in taps if isinstance(x, ShiftedTaps)), default=0))
        largest = max(
            (max(x.chunk, self.table(step)) for x, step in zip(taps, convs, strict=True)), default=0
        )
        self.offset_bits = 16 if largest < 2**16 else 32
        sizes = {x: self._nbytes(x) for x in (*inputs, *(step.result for step in plan.steps))}
        scratch = [sum(self.scratch(step)) for step in plan.steps]
        self.memory = allocate(plan.steps, sizes, scratch, ALIGN, inputs, outputs)

    def size(self, result: int) -> Size:
        """Returns the size of a result's bit planes in memory, of all images."""
        return stored(self.plan.size(result), self.images)

    def plane(self, result: int) -> int:
        """Returns the bytes of a result's bit planes, and an eighth of the numbers of a channel of its stream."""
        return plane_bytes(self.size(result))

    def dense_words(self, step: Step) -> int:
        """Returns the words of 8 bytes that the bits of a plane of all inputs of a dense layer fill."""
        size = self.plan.size(step.source)
        return -(-self.plan.values[step.source].channels * size.height * size.width // 64)

    def taps(self, step: Step) -> Taps:
        """Returns the taps of a binary convolution."""
        conv, size, planes = step.binary_conv, self.plan.size(step.source), self.plan.planes(step.source)
        if conv.window.is_centered:
            middle = self.table_choice(step) > 0
            return ShiftedTaps(conv, size, planes, middle, self.images)
        return Taps(conv, size, planes, self.images)

    def view(self, step: Step) -> View:
        """Returns what the window of a convolution or a pool sees."""
        node, size = step.conv or step.last, self.plan.size(step.source)
        assert isinstance(node, nodes.BinaryConvNode | nodes.MaxPoolNode | nodes.MeanPoolNode) and node.window
        return View(node.window, size, self.images)

    def table_choice(self, step: Step) -> int:
        """Returns the inputs of a table's entry; 0 if no table pays: large planes, few outputs, levels over 4 bits, groups.

        Nor is there one for several images, as moves by whole rows would mix them.
        """
        largest, conv = self.plan.values[step.source].bound, step.binary_conv
        small = self.plane(step.result) <= 8 and largest <= 15
        if not small or conv.signs.shape[3] < 8 or conv.groups > 1 or self.images > 1:
            return 0
        return min(15 // largest, 4)

    def table(self, step: Step) -> int:
        """Returns the bytes of the table of a binary convolution."""
        taps, choose = self.taps(step), self.table_choice(step)
        if choose == 0:
            return 0
        entries = 2**choose * taps.count * -(-taps.channels // choose)
        return 32 * -(-entries // 4) * 4  # four are written at once

    def scratch(self, step: Step) -> list[int]:
        """Returns the bytes of each of a step's working memories, in the order in which its functions take them.

        A binary convolution ends with its taps and its table, and a dense layer with its sums.
        """
        if self.plan.is_dense(step):
            if isinstance(step.conv, nodes.StemNode):
                inputs = 2 * self.plan.height * self.plan.width * self.plan.network.channels
            else:
                inputs = 8 * self.plan.planes(step.source) * self.dense_words(step)
            return [aligned(inputs), 4 * self.plan.values[step.result].channels]
        if isinstance(step.conv, nodes.StemNode):
            sums = STEM_OUTPUTS * self.stem_sums(step) + STEM_PIXELS * 2 * self.stem_pitch(step)
            return [self.stem_pixels(step), sums]
        if isinstance(step.conv, nodes.BinaryConvNode):
            taps = self.taps(step)
            return [*self._for_taps(taps), aligned(taps.nbytes), self.table(step)]
        if isinstance(step.last, nodes.MaxPoolNode) and self.plan.values[step.result].kind == "levels":
            view, planes = self.view(step), self.plan.planes(step.source)
            return [*[view.full_bytes(planes)] * 2, view.seen_bytes(1)]
        if isinstance(step.last, nodes.ClassifierNode):
            return [2 * len(step.last.weights)]
        return []

    def _for_taps(self, taps: Taps) -> list[int]:
        """Returns the bytes for even columns, odd columns and phases, or for a plane with its border and one tap."""
        if not isinstance(taps, ShiftedTaps):
            return [aligned(taps.view.full_bytes(1)), aligned(taps.view.seen_bytes(1))]
        if taps.stride == 1:
            return []
        columns = aligned(stored(taps.size, self.images).height * row_bytes(taps.seen.width)) + ALIGN
        phases = taps.planes * taps.channels * len(taps.phases) * self.pitch(taps)
        return [columns, columns, aligned(phases) + 2 * self.slack]

    def pitch(self, taps: Taps) -> int:
        """Returns the bytes from one phase to the next."""
        return -(-taps.plane // 8) * 8

    def stem_rows(self, step: Step) -> int:
        """Returns the rows that a kernel sees, of those with one remainder by its stride."""
        window = step.stem.window
        return self.size(step.result).height + (window.size[0] - 1) // window.strides[0]

    def stem_columns(self, step: Step) -> int:
        """Returns the columns that a kernel sees from the pixels of one byte."""
        window = step.stem.window
        return 7 * window.strides[1] + window.size[1]

    def stem_pixels(self, step: Step) -> int:
        """Returns the bytes of all pixels as the stem reads them."""
        pairs, row = (step.stem.weights.shape[2] + 1) // 2, row_bytes(self.plan.size(step.result).width)
        remainders = step.stem.window.strides[0]
        numbers = 2 * pairs * remainders * self.stem_columns(step) * self.stem_rows(step) * row
        return aligned(2 * numbers) + 4 * ALIGN  # vectors read beyond the end

    def stem_sums(self, step: Step) -> int:
        """Returns the bytes of one output's sums for one bit of each byte."""
        return 4 * (-(-self.plane(step.result) // 32) * 32)

    def stem_pitch(self, step: Step) -> int:
        """Returns the length of one output's weights: pairs of channels or of columns, in whole vectors of 16 bytes."""
        kh, kw, channels, _ = step.stem.weights.shape
        pairs = kh * (kw * (channels // 2) + channels % 2 * ((kw + 1) // 2))
        return -(-2 * pairs // 8) * 8

    def place(self, result: int) -> int:
        """Returns where a result begins, in bytes; there is slack around bit planes."""
        slack = self.slack if self.plan.values[result].kind == "levels" else 0
        return self.memory.offsets[result] + slack

    def _nbytes(self, result: int) -> int:
        value, pixels = self.plan.values[result], 8 * self.plane(result)
        if value.kind == "levels":
            return value.channels * self.plan.planes(result) * pixels // 8 + 2 * self.slack
        return {"stream": 2 * value.channels * pixels + self.slack, "logits": 0}[value.kind]


def aligned(nbytes: int) -> int:
    """Returns a number of bytes up to the next multiple of `ALIGN`."""
    return -(-nbytes // ALIGN) * ALIGN
