import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.jax import integers
from qresnet_jax.ship.jax.lower import NARROW

INT16, INT32 = np.iinfo(np.int16), np.iinfo(np.int32)
CHANNELS, PIXELS = 5, 64  # one shape, so that each operation compiles once
settings.register_profile("integers", max_examples=120, deadline=None, derandomize=True)
LAWS = settings.get_profile("integers")


def saturate(x):
    return min(max(x, INT16.min), INT16.max)


def requantize_node(multiplier, offset, shift):
    return nodes.RequantizeNode(
        multiplier=np.array(multiplier, np.int32),
        offset=np.array(offset, np.int64),
        shift=np.array(shift, np.uint8),
    )


def assert_requantizes(node, x, bound):
    """Of x `[C, L]`, in Python's integers."""
    expected = [
        [saturate((int(v) * int(m) + int(c)) // 2 ** int(k)) for v in row]
        for row, m, c, k in zip(x, node.multiplier, node.offset, node.shift, strict=True)
    ]
    constants = integers.requantizer_constants(node, bound, is_narrow=bound < NARROW)
    result = integers.requantize(constants, jnp.asarray(x), axis=0)
    assert result.dtype == jnp.int16
    np.testing.assert_array_equal(result, expected)


@LAWS
@given(
    st.integers(1, 24), st.integers(0, 31), st.integers(0, 60), st.integers(0, 40), st.integers(0, 2**32 - 1)
)
def test_requantization_is_exact(bits, multiplier_bits, offset_bits, max_shift, seed):
    rng = np.random.default_rng(seed)
    bound = 2**bits - 1
    x = rng.integers(-bound, bound + 1, (CHANNELS, PIXELS)).astype(np.int32)
    x[:, :2] = -bound, bound
    node = requantize_node(
        rng.integers(-(2**multiplier_bits), 2**multiplier_bits, CHANNELS),
        rng.integers(-(2**offset_bits) + 1, 2**offset_bits, CHANNELS),
        rng.integers(0, max_shift + 1, CHANNELS),
    )
    assert_requantizes(node, x, bound)


def test_requantization_is_exact_at_the_limits():
    multipliers = (INT32.min, INT32.min + 1, -65536, -1, 0, 1, 65535, INT32.max)
    offsets = (-(2**60) + 1, -(2**32), -(2**31) - 1, -1, 0, 1, 2**31, 2**32 - 1, 2**60 - 1)
    shifts = (0, 1, 12, 13, 31, 32, 33, 40)
    grid = np.array(list(itertools.product(multipliers, offsets, shifts)), object)
    bound = nodes.ACC_LIMIT - 1
    x = [-bound, -65537, -65536, -65535, -1, 0, 1, 65535, 65536, bound]
    node = requantize_node(*grid.T)
    assert_requantizes(node, np.broadcast_to(np.array(x, np.int32), (len(grid), len(x))), bound)


@pytest.mark.parametrize("bound, multiplier, offset", [(2**11, 2**18, 2**30), (2**24 - 1, 2**18 - 1, 2**41)])
def test_requantization_as_folded_takes_no_64_bit_sums(bound, multiplier, offset, monkeypatch):
    monkeypatch.setattr(integers, "_wide_requantize", None)
    rng = np.random.default_rng(0)
    node = requantize_node([multiplier, -multiplier, 1], [offset, -offset, 0], [14, 24, 12])
    assert_requantizes(node, rng.integers(-bound, bound + 1, (3, 99)), bound)


def assert_levels(node, x, bound):
    """Of x `[C, L]`, one comparison after the other, in int64."""
    constants = integers.threshold_constants(node, bound)
    result = integers.levels(node.levels.tolist(), constants, jnp.asarray(x), axis=0)
    assert result.dtype == jnp.int16
    directed = node.direction[:, None].astype(np.int64) * x
    passed = (directed[:, :, None] >= node.thresholds[:, None, :].astype(np.int64)).sum(-1)
    np.testing.assert_array_equal(result, node.levels[passed])


@settings(LAWS, max_examples=40)  # each number of levels is another program
@given(
    st.sampled_from([1, 3, 16, 17, 40]),
    st.sampled_from([1, CHANNELS]),
    st.sampled_from([1, 20, 1000, 32768, 2**24 - 1]),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_levels_are_exact(n, rows, bound, is_wild, seed):
    rng = np.random.default_rng(seed)
    reach = INT32.max if is_wild else bound
    thresholds = rng.integers(-reach, reach + 1, (rows, n))
    thresholds[rng.random((rows, n)) < 0.1] = INT32.max
    thresholds[rng.random((rows, n)) < 0.1] = INT32.min
    levels = np.sort(rng.choice(np.arange(1, nodes.MAX_LEVEL + 1), n, replace=False))
    node = nodes.ThresholdsNode(
        thresholds=np.sort(thresholds, axis=1).astype(np.int32),
        direction=rng.choice(np.array([-1, 1], np.int8), rows),
        levels=np.array([0, *levels], np.int32),
    )
    # All x that stand at a threshold, and the ends.
    edges = rng.choice(
        np.concatenate([thresholds.ravel() * s + d for s in (-1, 1) for d in (-1, 0, 1)]), PIXELS
    )
    x = np.broadcast_to(np.clip(edges, -bound, bound), (CHANNELS, PIXELS)).copy()
    x[:, :2] = -bound, bound
    x = np.minimum(x, INT16.max).astype(np.int16) if bound <= 32768 else x.astype(np.int32)
    assert_levels(node, x, bound)


def test_the_lowest_stream_value_has_a_direction():
    x = np.array([[-32768, -32767, 32767]] * 2, np.int16)
    for threshold in (-32769, -32768, -32767, 32767, 32768, 32769):
        node = nodes.ThresholdsNode(
            thresholds=np.full((2, 1), threshold, np.int32),
            direction=np.array([-1, 1], np.int8),
            levels=np.array([0, 1], np.int32),
        )
        assert_levels(node, x, 32768)


def test_sums_of_streams_saturate():
    a, b = (x.ravel() for x in np.meshgrid([-32768, -1, 0, 1, 32767], [-32768, -1, 0, 1, 32767]))
    result = integers.saturating_add(jnp.asarray(a, jnp.int16), jnp.asarray(b, jnp.int16))
    np.testing.assert_array_equal(result, np.clip(a + b, -32768, 32767))


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (3, 7), (8, 8), (200, 131)])
def test_means_round_half_up(shape):
    rng = np.random.default_rng(shape[0])
    x = rng.integers(-32768, 32768, (40, *shape, 3)).astype(np.int16)
    x[:2] = np.array([-32768, 32767])[:, None, None, None]
    x[2:30] = rng.integers(-2, 3, (28, *shape, 3))  # ties
    count = shape[0] * shape[1]
    expected = (2 * x.astype(np.int64).sum((1, 2)) + count) // (2 * count)
    np.testing.assert_array_equal(integers.mean_pool(jnp.asarray(x), Window(shape))[:, 0, 0], expected)


@pytest.mark.parametrize(
    "size, strides", [((1, 1), (1, 1)), ((2, 2), (2, 2)), ((3, 1), (2, 4)), ((2, 5), (3, 1))]
)
def test_means_of_windows(size, strides):
    x = np.random.default_rng(0).integers(-32768, 32768, (2, 6, 7, 3)).astype(np.int16)
    x[:, :4, :6] = np.random.default_rng(1).integers(-2, 3, (2, 4, 6, 3))  # ties
    window = Window(size, strides)
    expected = reference._apply(nodes.MeanPoolNode(window=window), None, x)
    result = integers.mean_pool(jnp.asarray(x.transpose(3, 1, 2, 0)), window)
    np.testing.assert_array_equal(result.transpose(3, 1, 2, 0), expected)


def test_means_over_the_largest_image():
    half = integers.MAX_POOLED_PIXELS // 2
    x = np.stack([np.full((2, half), v, np.int16) for v in (-32768, -1, 32767)])
    x = np.concatenate(
        [x, np.where(np.arange(2 * half).reshape(1, 2, half) % 2, 32767, -32768).astype(np.int16)]
    )
    pooled = integers.mean_pool(jnp.asarray(x)[..., None], Window((2, half)))
    np.testing.assert_array_equal(pooled.ravel(), [-32768, -1, 32767, 0])
    with pytest.raises(ValueError, match="mean over 4,194,306 pixels does not fit .* at most 4,194,304"):
        integers.mean_pool(jnp.zeros((1, 2, half + 1, 1), jnp.int16), Window((2, half + 1)))
