"""Says where the profile `fast` keeps its data in the buffer: results, taps, phases, tables and the stem's pixels."""

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.fast.bitplanes import ALIGN, Taps, plane_bytes, row_bytes
from qresnet_jax.ship.c.plan import Plan, Step, allocate

STEM_OUTPUTS, STEM_PIXELS = 16, 16  # the largest MODEL_STEM_OUTPUTS and MODEL_STEM_PIXELS of stem.h


class Layout:
    """The layout of the buffer for one plan.

    Args:
      plan: the steps of the network for one size of images.

    Attributes:
      slack: bytes before and after bit planes, which taps read.
      memory: places of results and working memories.
      offset_bits: 16 if that holds all offsets of taps and entries, else 32.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        convs = [step for step in plan.steps if isinstance(step.conv, nodes.BinaryConvNode)]
        reach = max((self.taps(step).reach() for step in convs), default=0)
        self.slack = -(-reach // ALIGN) * ALIGN
        largest = max((max(self.taps(step).chunk, self.parts(step)[-1]) for step in convs), default=0)
        self.offset_bits = 16 if largest < 2**16 else 32
        sizes = {step.result: self._nbytes(step.result) for step in plan.steps}
        self.memory = allocate(plan.steps, sizes, [self._scratch(step) for step in plan.steps], ALIGN)

    def planes(self, result: int) -> int:
        """Returns the bits of a result's levels."""
        return max(self.plan.values[result].bound.bit_length(), 1)

    def taps(self, step: Step) -> Taps:
        """Returns the taps of a binary convolution."""
        size = self.plan.size(step.source)
        middle = self.table_choice(step) > 0
        return Taps(step.binary_conv, size.height, size.width, self.planes(step.source), middle)

    def table_choice(self, step: Step) -> int:
        """Returns the inputs of a table's entry; 0 if no table pays: large planes, few outputs, levels over 4 bits."""
        largest = self.plan.values[step.source].bound
        outputs = step.binary_conv.signs.shape[3]
        if plane_bytes(self.plan.size(step.result)) > 8 or outputs < 8 or largest > 15:
            return 0
        return min(15 // largest, 4)

    def parts(self, step: Step) -> tuple[int, int, int, int, int]:
        """Returns bytes that a binary convolution works with: for even and odd columns, phases, taps and table."""
        taps, choose = self.taps(step), self.table_choice(step)
        columns = phases = table = 0
        if taps.stride == 2:
            columns = -(-taps.height * row_bytes(taps.out.width) // ALIGN) * ALIGN + ALIGN
            planes = taps.planes * taps.channels * len(taps.phases)
            phases = -(-planes * self.pitch(taps) // ALIGN) * ALIGN + 2 * self.slack
        copies = -(-taps.chunk * taps.padded // 8 // ALIGN) * ALIGN
        if choose:
            kw = len(taps.columns)
            entries = 2**choose * len(taps.copied) * kw * -(-taps.channels // choose)
            table = 32 * -(-entries // 4) * 4  # four are written at once
        return columns, columns, phases, copies, table

    def pitch(self, taps: Taps) -> int:
        """Returns the bytes from one phase to the next."""
        return -(-taps.plane // 8) * 8

    def stem_rows(self, step: Step) -> int:
        """Returns the rows of one parity that a kernel sees."""
        return self.plan.size(step.result).height + (step.stem.weights.shape[0] - 1) // step.stem.stride

    def stem_columns(self, step: Step) -> int:
        """Returns the columns that a kernel sees from the pixels of one byte."""
        return 7 * step.stem.stride + step.stem.weights.shape[1]

    def stem_pixels(self, step: Step) -> int:
        """Returns the bytes of all pixels as the stem reads them."""
        pairs, row = (step.stem.weights.shape[2] + 1) // 2, row_bytes(self.plan.size(step.result).width)
        numbers = 2 * pairs * step.stem.stride * self.stem_columns(step) * self.stem_rows(step) * row
        return -(-2 * numbers // ALIGN) * ALIGN + 4 * ALIGN  # vectors read beyond the end

    def stem_sums(self, step: Step) -> int:
        """Returns the bytes of one output's sums for one bit of each byte."""
        return 4 * (-(-plane_bytes(self.plan.size(step.result)) // 32) * 32)

    def stem_pitch(self, step: Step) -> int:
        """Returns the length of one output's weights: pairs of channels or of columns, in whole vectors of 16 bytes."""
        kh, kw, channels, _ = step.stem.weights.shape
        pairs = kh * (kw * (channels // 2) + channels % 2 * ((kw + 1) // 2))
        return -(-2 * pairs // 8) * 8

    def _nbytes(self, result: int) -> int:
        value, pixels = self.plan.values[result], 8 * plane_bytes(self.plan.size(result))
        if value.kind == "levels":
            return value.channels * self.planes(result) * pixels // 8 + 2 * self.slack
        return {"stream": 2 * value.channels * pixels + self.slack, "mean": 2 * value.channels, "logits": 0}[
            value.kind
        ]

    def _scratch(self, step: Step) -> int:
        if isinstance(step.conv, nodes.StemNode):
            return (
                self.stem_pixels(step)
                + STEM_OUTPUTS * self.stem_sums(step)
                + STEM_PIXELS * 2 * self.stem_pitch(step)
            )
        if isinstance(step.conv, nodes.BinaryConvNode):
            return sum(self.parts(step))
        return 0
