"""The registry against the classes and against the definitions of the levels, written down once more."""

import pytest

from qresnet_jax import nn
from qresnet_jax.quantize import exact, registry


@pytest.mark.parametrize("name", registry.QUANTIZERS)
def test_levels_ascend_from_0_and_there_are_2_to_the_bits(name):
    info = registry.QUANTIZERS[name]
    for bits in range(1, info.most_bits + 1):
        levels = list(info.levels(bits))
        assert levels[0] == 0 and len(levels) == 2**bits
        assert levels == sorted(set(levels)) and levels[-1] == info.max_level(bits)
        assert levels[-1] <= 2**14  # what a packed file holds


def test_levels_are_evenly_spaced_or_powers_of_two():
    assert list(registry.evenly_spaced(3)) == [0, 1, 2, 3, 4, 5, 6, 7]
    assert list(registry.powers_of_two(3)) == [0, 1, 2, 4, 8, 16, 32, 64]


@pytest.mark.parametrize("name", registry.QUANTIZERS)
def test_the_factory_makes_the_class_of_the_line(name):
    act = nn.activation(name, 2)
    assert type(act) is getattr(nn, registry.QUANTIZERS[name].layer)
    assert act.info() is registry.QUANTIZERS[name]
    assert act.is_uniform == (name != "power_of_two")


@pytest.mark.parametrize("largest_input", [1, 3, 510])
@pytest.mark.parametrize("taps", [9, 27, 147, 4608])
def test_most_weight_bits_is_tight(largest_input, taps):
    def largest_sum(bits):
        return largest_input * taps * (2 ** (bits - 1) - 1)

    bits = exact.most_weight_bits(largest_input, taps)
    assert largest_sum(bits) < 2**24 <= largest_sum(bits + 1)
