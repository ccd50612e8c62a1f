"""The lists are stored as differences, and the rest of the C code is that of the profile `fast`."""

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from qresnet_jax.ship.c.fast.profile import FastProfile
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.wasm.source import packed, sources, unit


def unpacked(data, n, step):
    """What `_initialize` does, in Python."""
    values, value, digits = [], 0, iter(data.tolist())
    for _ in range(n):
        number = shift = 0
        while (digit := next(digits)) > 127:
            number, shift = number | (digit & 127) << shift, shift + 7
        number |= digit << shift
        value += -(number + 1 >> 1) if number & 1 else number >> 1
        values.append(value * step)
    assert next(digits, None) is None
    return values


@given(
    arrays(np.uint32, st.integers(1, 50), elements=st.integers(0, 2**32 - 1)),
    st.sampled_from([np.uint16, np.uint32]),
)
def test_lists_come_out_as_they_were(x, dtype):
    x = x.astype(dtype)
    assert np.all(x % unit(x) == 0)
    assert unpacked(packed(x), len(x), unit(x)) == x.tolist()


def test_a_list_of_a_network_takes_a_byte_for_a_number():
    x = np.cumsum(np.random.default_rng(0).geometric(0.5, 1000)).astype(np.uint16) * np.uint16(16)
    assert unit(x) == 16 and packed(x).nbytes == len(x)


def test_the_constants_are_those_of_the_profile_and_the_code_has_none_of_its_own(digits):
    steps = plan(digits, 8, 8)
    constants, code = sources(steps)
    profile = FastProfile(steps)
    profile.source()
    names = [*profile.constants.arrays, *profile.constants.structs]
    for name in names:
        assert len(re.findall(rf"^(?:MODEL_STORED|static) \w+ {name}\b", constants, re.MULTILINE)) == 1
        stored = not name.startswith("model_lists_")
        assert len(re.findall(rf"^extern const \w+ {name}\b", code, re.MULTILINE)) == stored
    assert len(re.findall("^extern ", code, re.MULTILINE)) == sum(
        not n.startswith("model_lists_") for n in names
    )
    assert profile.function() in code
    assert not re.search(r"\b(float|double|malloc)\b", constants + code)
