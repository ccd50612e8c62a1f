import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.fast.bitplanes import (
    ShiftedTaps,
    Taps,
    entries,
    grouped,
    lists_of,
    padded_bytes,
    plane_bytes,
    row_bytes,
    stored,
)
from qresnet_jax.ship.c.plan import Size, Step
from qresnet_jax.ship.geometry import Window


def shifted(plane, byte, bit, across, nbytes):
    """What `nbytes` from `byte` on are after a move by bits, within words of 8 bytes or not; `plane` has both ends."""
    if across:
        bits = np.unpackbits(plane, bitorder="little")[8 * byte + bit :][: 8 * nbytes]
        return np.packbits(bits, bitorder="little")
    words = plane[byte : byte + nbytes].view(np.uint64)
    return (words << np.uint64(-bit) if bit < 0 else words >> np.uint64(bit)).view(np.uint8)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.integers(1, 40),
    st.integers(1, 80),
    st.sampled_from([1, 3, 5, 7]),
    st.integers(1, 2),
    st.sampled_from([1, 1, 2, 8]),
    st.integers(0, 9),
)
def test_shifted_taps_see_the_pixels_of_a_convolution(height, width, size, stride, count, seed):
    """Moves and masks, against padded images, with ones around them that must not be seen."""
    rng = np.random.default_rng(seed)
    image, window = Size(height, width), Window.centered((size, size), stride)
    conv = nodes.BinaryConvNode(signs=np.ones((size, size, 1, 1), np.int8), window=window)
    taps = ShiftedTaps(conv, image, planes=1, middle=False, images=count)
    rows = stored(image).height
    assume(count == 1 or rows == stride * stored(taps.seen).height)  # see `stack`
    images = rng.integers(0, 2, (count, height, width)).astype(np.uint8)
    memory = np.ones((count, rows, width), np.uint8)
    memory[:, :height] = images
    memory = memory.reshape(-1, width)
    masks = taps.masks().reshape(len(taps.taps), -1)
    reach = -(-taps.reach() // 8) * 8
    for (dy, dx), byte, bit, mask in zip(taps.taps, *taps.shifts(), masks, strict=True):
        phase = memory[dy % stride :: stride, dx % stride :: stride]
        bits = np.ones((taps.plane // row_bytes(taps.seen.width), 8 * row_bytes(taps.seen.width)), np.uint8)
        bits[: phase.shape[0], : phase.shape[1]] = phase[: len(bits)]
        plane = np.packbits(bits.ravel(), bitorder="little")
        plane = np.pad(plane, (reach, reach + taps.padded), constant_values=255)
        read = shifted(plane, reach + byte, int(bit), taps.across(), taps.padded) & mask
        seen = np.unpackbits(read, bitorder="little")[: 8 * taps.plane].reshape(count, -1, bits.shape[1])
        padded = np.pad(images, ((0, 0), *((size + 1,) * 2,) * 2))
        expected = padded[:, size + 1 + dy :, size + 1 + dx :][:, :height:stride, :width:stride]
        np.testing.assert_array_equal(seen[:, : taps.seen.height, : taps.seen.width], expected)
        assert not seen[:, :, taps.seen.width :].any() and not seen[:, taps.seen.height :].any()


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 8))
def test_planes_in_memory_fill_whole_vectors(height, width, images):
    size = stored(Size(height, width), images)
    whole = plane_bytes(stored(Size(height, width)))
    assert (
        size.width == width
        and plane_bytes(size) == images * whole
        and whole >= plane_bytes(Size(height, width))
    )
    if row_bytes(width) in (1, 2, 4, 8):
        assert padded_bytes(whole) == max(whole, 8) < 2 * max(plane_bytes(Size(height, width)), 8)
    else:
        assert size.height == images * height


def a_step(signs, window, groups=1, multiplier=1):
    signs = np.asarray(signs, np.int8)
    out = np.ones(signs.shape[3], np.int32)
    last = nodes.RequantizeNode(multiplier=multiplier * out, offset=0 * out, shift=out.astype(np.uint8))
    conv = nodes.BinaryConvNode(signs=signs, window=window, groups=groups)
    return Step(result=2, source=0, conv=conv, last=last)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 99)
)
def test_lists_of_each_group_add_up_to_the_convolution(features, outputs, groups, lowest, share, seed):
    """Against the sum of signs times numbers."""
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], (2, 3, features, groups * outputs), p=rng.dirichlet([1, 1]))
    x = rng.integers(0, 4, (2, 3, features * groups))
    step = a_step(signs, Window((2, 3)), groups, -(2**31) if lowest else 3)
    found = lists_of(step, np.arange(x.size).reshape(x.shape), share)
    by_group = x.reshape(2, 3, groups, features)
    expected = np.einsum("ijgc,ijcgo->go", by_group, signs.reshape(2, 3, features, groups, outputs)).ravel()
    lists, order, most = iter(found.lists), iter(found.order), 0
    for _ in range(groups):
        inputs = next(lists)
        for first in range(0, outputs, 2):
            both, *own = next(lists), next(lists), next(lists)
            assert share or len(both) == 0
            for places in own[: outputs - first]:
                assert not set(places) & set(both)
                o, total = next(order), x.ravel()[places].sum() + x.ravel()[both].sum()
                assert found.polarity[o] * (2 * total - x.ravel()[inputs].sum()) == expected[o]
                most = max(most, len(places) + len(both))
    assert next(lists, None) is next(order, None) is None and most == found.most
    assert not lowest or (found.polarity == 1).all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 9), st.sampled_from([1, 2, 3]), st.integers(0, 99))
def test_entries_of_tables_add_up_to_the_convolution(channels, size, seed):
    rng = np.random.default_rng(seed)
    signs = rng.choice([-1, 1], (size, size, channels, 5))
    x = rng.integers(0, 4, (size, size, channels))
    step = a_step(signs, Window.centered((size, size)))
    if step.conv.window.is_centered:
        taps = ShiftedTaps(step.conv, Size(4, 4), planes=2, middle=True)
    else:
        taps = Taps(step.conv, Size(4, 4), planes=2)
    subsets = np.arange(16)[:, None] >> np.arange(4) & 1
    tables = (
        (grouped(x, 4).reshape(size, -1, 1, 4) * subsets).sum(3).reshape(size, -1)
    )  # of each row of the kernel
    if taps.copied == taps.copy:  # one table, and no sums are moved afterwards
        tables = tables.reshape(1, -1)
    totals = [
        sum(
            table[part // 32].sum() for table, part in zip(tables, parts, strict=True)
        )  # an entry has 32 bytes
        for parts in entries(step, 4, taps)
    ]
    expected = np.einsum("ijc,ijco->o", x, signs)
    np.testing.assert_array_equal(2 * np.array(totals[1:]) - totals[0], expected)
