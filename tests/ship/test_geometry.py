"""Formulas for sizes against windows that are moved over a row of pixels, one place after the other."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qresnet_jax.ship.geometry import Extent, Window

SIZES = range(1, 60)


@dataclasses.dataclass(frozen=True)
class Along:
    """A window along one axis."""

    size: int
    stride: int
    border: int

    def places(self, pixels):
        """How often it can be put down on so many pixels, from the first one of the border on."""
        count, start = 0, 0
        while start + self.size <= pixels + self.border:
            count, start = count + 1, start + self.stride
        return count


@st.composite
def windows(draw):
    size = draw(st.integers(1, 7))
    return Along(size, draw(st.integers(1, 5)), draw(st.integers(0, 2 * size - 2)))


def through(extent, chain):
    """The extents behind each window of a chain."""
    extents = []
    for window in chain:
        extent = extent.seen_by(window.size, window.stride, window.border)
        extents.append(extent)
    return extents


def walked(pixels, chain):
    """The numbers of pixels behind each window of a chain, up to the first that does not fit."""
    counts = []
    for window in chain:
        pixels = window.places(pixels)
        counts.append(pixels)
        if not pixels:
            break
    return counts


@given(st.lists(windows(), max_size=5))
def test_a_formula_counts_the_places_of_a_chain_of_windows(chain):
    extents = through(Extent(), chain)
    least = max((extent.least for extent in extents), default=1)
    for size in SIZES:
        counts = walked(size, chain)
        assert [max(extent.at(size), 0) for extent in extents[: len(counts)]] == counts
        assert (0 in counts) == (size < least)


@given(st.integers(1, 60), st.lists(windows(), min_size=1, max_size=5))
def test_a_size_that_is_known_is_counted_at_once(size, chain):
    counts = walked(size, chain)
    if counts[-1]:
        extents = through(Extent(size, 0), chain)
        assert [extent.fixed for extent in extents] == counts
        assert [extent.at(7) for extent in extents] == counts and {extent.least for extent in extents} == {1}
    else:
        with pytest.raises(
            ValueError, match=r"a window of \d+ pixels does not fit \d+ pixels and a border of"
        ):
            through(Extent(size, 0), chain)


def test_images_of_any_size_have_no_fixed_size():
    assert Extent().fixed is None and Extent().at(13) == 13 and Extent().least == 1
    assert Extent(0, 3).fixed is None and Extent(0, 3).least == 3


extents = st.builds(Extent, st.integers(-12, 12), st.integers(0, 8))


@given(extents, extents)
def test_formulas_are_equal_if_and_only_if_all_sizes_are(a, b):
    """Those of different slopes are far apart after some pixels; of one slope, they rise at different pixels."""
    assert (a == b) == all(a.at(size) == b.at(size) for size in range(1, 400))


@given(st.lists(windows(), max_size=4), st.lists(windows(), max_size=4))
def test_chains_have_one_formula_if_and_only_if_they_leave_equal_sizes(a, b):
    ends = [[Extent(), *through(Extent(), chain)][-1] for chain in (a, b)]
    same = all(ends[0].at(size) == ends[1].at(size) for size in range(1, 3000))
    assert (ends[0] == ends[1]) == same


# Windows along both axes.

pairs = st.tuples(st.integers(1, 9), st.integers(1, 9))


@given(pairs, st.integers(1, 4))
def test_a_centered_window_has_its_middle_on_the_first_pixel(size, stride):
    window = Window.centered(size, stride)
    assert window == (size, (stride, stride), tuple(((k - 1) // 2,) * 2 for k in size))
    window.check()
    for extent, k in zip(window.leaves(Extent(), Extent()), size, strict=True):
        if k % 2:  # then it has its middle on each pixel in turn
            assert [extent.at(n) for n in SIZES] == [len(range(0, n, stride)) for n in SIZES]
    assert window.is_centered == (size[0] % 2 == size[1] % 2 == 1 and stride in (1, 2))


@pytest.mark.parametrize(
    "changes",
    [
        {"strides": (1, 2)},
        {"strides": (3, 3)},
        {"padding": ((1, 1), (2, 1))},
        {"padding": ((0, 0), (2, 2))},
        {"size": (4, 5)},
        {"size": (5, 3)},
    ],
)
def test_other_windows_are_not_centered(changes):
    window = Window.centered((3, 5), 2)
    assert window.is_centered and not window._replace(**changes).is_centered


def test_height_and_width_have_their_own_numbers():
    window = Window((2, 5), (3, 1), ((1, 0), (0, 4)))
    height, width = window.leaves(Extent(), Extent(6, 0))
    assert [height.at(n) for n in (1, 2, 3, 4, 7)] == [1, 1, 1, 2, 3]
    assert width == Extent(6, 0)
    with pytest.raises(ValueError, match="a window of 5 pixels does not fit 0 pixels and a border of 4"):
        window.leaves(Extent(), Extent(0, 0))


@pytest.mark.parametrize(
    "window",
    [
        Window((0, 1)),
        Window((1, -1)),
        Window((2**16, 1)),
        Window((3, 3), (0, 1)),
        Window((3, 3), (1, 2**16)),
        Window((3, 3), (1, 1), ((3, 0), (0, 0))),
        Window((3, 3), (1, 1), ((0, 0), (0, 3))),
        Window((3, 3), (1, 1), ((0, -1), (0, 0))),
        Window((1, 3), (1, 1), ((1, 1), (1, 1))),
    ],
)
def test_impossible_windows_are_refused(window):
    with pytest.raises(
        ValueError, match="must have sizes and strides from 1, and less padding than its size"
    ):
        window.check()


def test_the_largest_windows_are_possible():
    Window((2**16 - 1, 1), (2**16 - 1, 1), ((2**16 - 2, 2**16 - 2), (0, 0))).check()
