"""The activation quantizers that exist, and the integer levels of each.

A new quantizer needs a pure function in `qresnet_jax.quantize.activations`, a class in
`qresnet_jax.nn.activations`, and one line in `QUANTIZERS`. Configs, networks, `fold` and all exports take
what they need from that line and from the class.

This module does not import JAX, because configs are checked before JAX is imported.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

MOST_BITS = 8  # the most that any quantizer has: convolutions and packed files hold levels of up to 8 bits


def evenly_spaced(bits: int) -> Sequence[int]:
    """Returns the levels `0, 1, 2, ..., 2**bits - 1`."""
    return range(2**bits)


def powers_of_two(bits: int) -> Sequence[int]:
    """Returns the `2**bits` levels `0, 1, 2, 4, 8, ...`."""
    return 0, *(2**i for i in range(2**bits - 1))


class QuantizerInfo(NamedTuple):
    """What is known about a quantizer without JAX."""

    layer: str  # the name of its class in `qresnet_jax.nn.activations`
    # Returns the `2**bits` integer levels for a number of bits, ascending from 0.
    levels: Callable[[int], Sequence[int]] = evenly_spaced
    most_bits: int = MOST_BITS

    def max_level(self, bits: int) -> int:
        """Returns the largest integer level, in units of the quantizer's step."""
        return self.levels(bits)[-1]


# The keys are the values of `config.model.activation`.
QUANTIZERS = {
    "pact": QuantizerInfo(layer="PACT"),
    "fixed": QuantizerInfo(layer="Fixed"),
    "lsq": QuantizerInfo(layer="LSQ"),
    "sigmoid": QuantizerInfo(layer="Sigmoid"),
    # With more bits the largest level, 2**(2**bits - 2), would not fit exact float32 sums.
    "power_of_two": QuantizerInfo(layer="PowerOfTwo", levels=powers_of_two, most_bits=4),
}

NO_QUANTIZER = "none"  # float activations


def names() -> tuple[str, ...]:
    """Returns all values that `config.model.activation` may have."""
    return *QUANTIZERS, NO_QUANTIZER


def info_of_layer(layer: str) -> QuantizerInfo | None:
    """Returns the registered quantizer whose class is named `layer`, or None if there is none."""
    return next((info for info in QUANTIZERS.values() if info.layer == layer), None)
