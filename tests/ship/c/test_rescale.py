"""Requantization in the profile `fast`, against integers of any size."""

import ctypes
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship.c.writer import write_c
from tests.ship.random_networks import random_network

RESCALE = """
#include "model.c"
void wide(int32_t multiplier, uint64_t offset, uint8_t shift, int saturates, const int32_t *x, size_t n, int16_t *out);
void wide(int32_t multiplier, uint64_t offset, uint8_t shift, int saturates, const int32_t *x, size_t n, int16_t *out)
{
    const model_requantize r = {
        .multiplier = &multiplier, .wide_offset = &offset, .shift = &shift, .saturates = saturates};
    model_rescale(&r, 0, x, n, out);
}
void narrow(int32_t multiplier, int32_t offset, uint8_t shift, unsigned split, const int16_t *all, const uint8_t *bytes,
            size_t n, int relu, int16_t *stream);
void narrow(int32_t multiplier, int32_t offset, uint8_t shift, unsigned split, const int16_t *all, const uint8_t *bytes,
            size_t n, int relu, int16_t *stream)
{
    const model_requantize r = {
        .multiplier = &multiplier, .offset = &offset, .shift = &shift, .split = split, .saturates = 1};
    model_rescale_narrow(&r, 0, all, bytes, 16, n, n, n, n, stream, relu, stream);
}
"""


@pytest.fixture(scope="module", params=["plain", "native"])
def rescaling(request, tmp_path_factory, compiler):
    """The functions that rescale, from the exported code, without vectors and with those of this machine."""
    directory = tmp_path_factory.mktemp("rescale")
    network, size = random_network(20, ordinary=True)
    free = {} if network.height else {"height": size[0], "width": size[1]}
    write_c(network, directory, profile="fast", **free)
    (directory / "rescale.c").write_text(RESCALE)
    flags = ["-march=native"] if request.param == "native" else ["-DMODEL_VECTOR=8"]
    command = [compiler, "-std=c99", "-Os", *flags, "-shared", "-fPIC", "rescale.c", "-o", "rescale.so"]
    subprocess.run(command, cwd=directory, check=True, timeout=300)
    return ctypes.CDLL(str(directory / "rescale.so"))


def pointer(x):
    return ctypes.c_void_p(x.ctypes.data)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(
    st.integers(-(2**24), 2**24),
    st.integers(-(2**18) + 1, 2**18 - 1),
    st.integers(0, 36),
    st.integers(-40000, 40000),
    st.sampled_from([-1, 0, 1]),
)
def test_wide_numbers_are_rescaled_exactly_where_results_begin_and_end(
    rescaling, x, multiplier, shift, q, more
):
    def rescale(x, saturates):
        x, out = np.int32(x), np.zeros(len(x), np.int16)
        offset_bits, shift_bits = ctypes.c_uint64(offset + 2**63), ctypes.c_uint8(shift)
        rescaling.wide(
            multiplier, offset_bits, shift_bits, saturates, pointer(x), ctypes.c_size_t(len(x)), pointer(out)
        )
        return out.astype(int)

    offset = q * 2**shift - x * multiplier + more
    numbers = np.resize(np.clip([x, x - 1, x + 1, -x, 0], -(2**24), 2**24), 37)  # more than a vector holds
    exact = np.array([(int(n) * multiplier + offset) >> shift for n in numbers], object)
    saturated = np.clip(exact, -(2**15), 2**15 - 1)
    np.testing.assert_array_equal(rescale(numbers, saturates=1), saturated)
    small = exact == saturated
    np.testing.assert_array_equal(rescale(numbers[small], saturates=0), exact[small])


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.integers(1, 15), st.integers(0, 31), st.integers(1, 31), st.booleans(), st.integers(0, 2**32 - 1))
def test_narrow_numbers_are_rescaled_exactly(rescaling, bits, scale, shift, relu, seed):
    """Numbers up to the bound that `Structs.requantize` allows, with the largest multipliers of 32 bits."""
    rng = np.random.default_rng(seed)
    bound = int(rng.integers(2 ** (bits - 1), 2**bits))
    split = 15 - bound.bit_length()
    offset = int(rng.integers(-(2**scale), 2**scale))
    most = min(2 ** (15 + split) - 1, (2**31 - 1 - abs(offset)) // bound)
    multiplier = int(rng.choice([-most, most, rng.integers(-most, most + 1)]))
    x = rng.choice([-bound, bound, *rng.integers(-bound, bound + 1, 9)], 128)
    sums = rng.integers(0, 2**14, 128)  # x = 2 * sum - all
    stream = rng.integers(-(2**15), 2**15, 128)
    exact = np.clip((x * multiplier + offset) >> shift, -(2**15), 2**15 - 1) + stream
    exact = np.clip(exact, 0 if relu else -(2**15), 2**15 - 1)
    parts = np.concatenate([sums & 255, sums >> 8]).astype(np.uint8)
    all_, out = (2 * sums - x).astype(np.int16), stream.astype(np.int16)
    one, of = ctypes.c_uint8(shift), ctypes.c_size_t(128)
    rescaling.narrow(
        multiplier, offset, one, split, pointer(all_), pointer(parts), of, int(relu), pointer(out)
    )
    np.testing.assert_array_equal(out, exact)
