"""The profile `fast` of the C export: bit-sliced, all pixels of a bit plane at once.

A level has a few bits. Bit b of one channel is a plane with one bit per pixel, and a vector register holds up
to 512 pixels. Shifted copies of the planes are the taps of a convolution. An output channel adds up the taps
of one of its signs,

    acc = 2 * plus - all = all - 2 * minus,     all = sum of all inputs, the same for every output channel of a group,

by full adders on whole planes (carry-save adders in blocks of 16, after Harley and Seal), which leaves no
multiplication and no population count. Two outputs share the sum of the taps that both add up (`pairs.py` chooses the
signs). Thresholds are carries of comparisons with constants. The stream is int16, channel by channel. Only a dense
layer, whose planes have a single pixel, counts the bits of its inputs.

Centered windows have quick ways to make their taps, and a max pool and a mean as in a ResNet to make their result;
`window.h` and `pool.h` have windows of any kind.

The code is in `headers/`, where `planes.h` says how the data lie. This module writes what differs from
network to network: constants, calls, and for each size of a convolution a function that hands the size to the
general code as constants.
"""

import pathlib

from qresnet_jax.ship.c import text
from qresnet_jax.ship.c.fast.bitplanes import ALIGN
from qresnet_jax.ship.c.fast.calls import Calls
from qresnet_jax.ship.c.fast.layout import Layout
from qresnet_jax.ship.c.fast.structs import Structs
from qresnet_jax.ship.c.plan import Plan

# Headers, in the order of their includes. Any order is right, but which functions GCC specialises depends on it.
_ORDER = (
    *("taps.h", "window.h", "conv.h", "groups.h", "table.h", "quantize.h", "stem.h", "dense.h", "stream.h"),
    *("pool.h", "stack.h", "../../classify.h"),
)
_HEADERS = pathlib.Path(__file__).parent / "headers"


class FastProfile:
    """The C code for one plan.

    Args:
      plan: the steps of the network for one size of images.
      offset_bits: the fewest bits of all places of taps and entries.

    Attributes:
      buffer_bytes: bytes of the buffer that the code needs, wherever the buffer begins.
    """

    def __init__(self, plan: Plan, offset_bits: int = 16) -> None:
        self.layout, self.constants = Layout(plan), text.Constants()
        self.headers: set[str] = set()  # those that have the functions which are called
        self.kernels: dict[str, str] = {}
        self.offset_bits = max(self.layout.offset_bits, offset_bits)
        self.buffer_bytes = self.layout.memory.nbytes + ALIGN - 1
        self.calls = self.written(self.layout, self.constants)

    def written(self, layout: Layout, constants: text.Constants) -> list[str]:
        """Returns the lines of each step of a layout, and adds the constants, headers and functions that they need."""
        calls = Calls(layout, Structs(layout, constants, self.offset_bits))
        lines = calls.all()
        self.headers |= calls.headers
        self.kernels |= calls.kernels
        return lines

    @property
    def weight_bytes(self) -> int:
        """Returns the bytes of all constant arrays."""
        return self.constants.nbytes

    def source(self) -> str:
        """Returns the text between the head of `model.c` and the class names."""
        return text.amalgamated(self.program(), _HEADERS)

    def program(self) -> str:
        """Returns the same text with `#include` lines for the headers, relative to their folder."""
        return "\n".join([self.head(), *self.kernels.values(), self.constants.text(), self.function()])

    def head(self) -> str:
        """Returns the `#include` lines for the headers, and what they need to know."""
        includes = "".join(f'#include "{name}"\n' for name in _ORDER if name in self.headers)
        return f"#define MODEL_OFFSET_BITS {self.offset_bits}\n\n{includes}"

    def function(self) -> str:
        """Returns the text of `model_logits`."""
        return text.logits_function(ALIGN, self.calls)
