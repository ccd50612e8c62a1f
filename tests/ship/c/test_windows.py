"""Windows of any kind and dense layers in the profile `fast`, whose images may be wider than those of random networks."""

import ctypes
import pathlib
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.c import engine, fast
from qresnet_jax.ship.c.fast.bitplanes import View, plane_bytes, stored
from qresnet_jax.ship.c.plan import Size
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork

HEADERS = pathlib.Path(fast.__file__).parent / "headers"
CODE = """
#include "pool.h"
#include "window.h"
void spread(const model_window *w, const uint8_t *in, uint8_t *full, uint8_t *seen, uint8_t *out)
{
    model_spread_window(w, in, 8, full, seen, out);
}
void max_levels(const model_window *w, const uint8_t *in, uint8_t *full, uint8_t *seen, uint8_t *largest, uint8_t *out)
{
    model_max_levels(w, in, full, seen, largest, out);
}
void pool(const model_window *w, int is_mean, const model_int16 *x, model_int16 *out)
{
    model_pool(w, is_mean, x, out);
}
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory, compiler):
    """The functions of the headers."""
    directory = tmp_path_factory.mktemp("windows")
    (directory / "windows.c").write_text(CODE)
    command = [
        compiler,
        "-std=c99",
        "-Os",
        "-shared",
        "-fPIC",
        f"-I{HEADERS}",
        "windows.c",
        "-o",
        "windows.so",
    ]
    subprocess.run(command, cwd=directory, check=True, timeout=300)
    return ctypes.CDLL(str(directory / "windows.so"))


def call(function, view, channels, planes, *arguments):
    """Calls a function with a window, with integers, and with arrays, which are followed by bytes that it must not write."""
    memories = [
        x if isinstance(x, int) else np.append(x.view(np.uint8), np.full(64, 77, np.uint8)) for x in arguments
    ]
    window = np.array(list(view.fields(channels, planes).values()), np.uintp)
    function.restype = None
    function(*(x if isinstance(x, int) else ctypes.c_void_p(x.ctypes.data) for x in (window, *memories)))
    for x, memory in zip(arguments, memories, strict=True):
        if not isinstance(x, int):
            assert (memory[-64:] == 77).all()
            x.view(np.uint8)[:] = memory[:-64]


def filled(nbytes):
    """Memory that holds anything."""
    return np.full(nbytes, 255, np.uint8)


def with_rows_below(x, below):
    """`x[H, W, C]` with the rows that planes have in memory below the image."""
    return np.pad(x, ((0, stored(Size(*x.shape[:2])).height - len(x)), (0, 0), (0, 0)), constant_values=below)


def in_planes(levels, planes, below=0):
    """Bit planes `[planes, C, plane]` of levels `[H, W, C]`, with the level `below` in the rows below the image."""
    bits = np.moveaxis(with_rows_below(levels, below), 2, 0) >> np.arange(planes)[:, None, None, None] & 1
    packed = np.packbits(bits.astype(np.uint8), axis=3, bitorder="little")
    return np.ascontiguousarray(packed.reshape(planes, levels.shape[2], -1))


def in_stream(x):
    """A stream `[C, 8, plane]` of numbers `[H, W, C]`, with any numbers beside the image."""
    x = with_rows_below(x, 12345)
    height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (0, -width % 8), (0, 0)), constant_values=12345).reshape(
        height, -1, 8, channels
    )
    return np.ascontiguousarray(padded.transpose(3, 2, 0, 1).reshape(channels, 8, -1).astype(np.int16))


def of_stream(stream, size):
    """The numbers `[H, W, C]` of a stream."""
    height = stored(size).height
    by_byte = stream.reshape(len(stream), 8, height, -1).transpose(2, 3, 1, 0)
    return by_byte.reshape(height, -1, len(stream))[: size.height, : size.width]


@st.composite
def views(draw, padded=True):
    """Windows over images that are up to three loads wide."""
    axes = []
    for most in (6, 140):
        size = draw(st.integers(1, most))
        kernel = draw(st.integers(1, 5) if padded else st.integers(1, min(size, 5)))
        stride = draw(st.sampled_from([1, 1, 2, 2, 3, 9]))
        border = [draw(st.integers(0, kernel - 1)) for _ in range(2)] if padded else [0, 0]
        border = [kernel - 1] * 2 if size + sum(border) < kernel else border
        axes.append((size, kernel, stride, tuple(border)))
    (height, *_), (width, *_) = axes
    kernel, strides, padding = ((a, b) for a, b in zip(*(axis[1:] for axis in axes), strict=True))
    return View(Window(kernel, strides, padding), Size(height, width))


def taps_of(x, window, border):
    """What each pixel of a window sees of `x[H, W, C]`: `[kh * kw, H', W', C]`."""
    return np.moveaxis(reference._windows(x[None], window, border)[0], 2, 0)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(view=views(), planes=st.integers(1, 3), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_taps_of_any_window_are_what_it_sees(library, view, planes, channels, seed):
    levels = np.random.default_rng(seed).integers(0, 2**planes, (view.height, view.width, channels))
    taps = view.rows * view.columns
    out = filled(view.padded * planes * (1 + taps * channels))
    memory = filled(view.full_bytes(1)), filled(view.seen_bytes(1))
    call(library.spread, view, channels, planes, in_planes(levels, planes, -1).ravel(), *memory, out)
    chunks = out.reshape(view.padded // 8, -1, planes, 8)
    assert not chunks[:, 0].any()
    seen = np.moveaxis(chunks[:, 1:].reshape(-1, taps, channels, planes, 8), 0, 3).reshape(
        taps, channels, planes, -1
    )
    for got, expected in zip(seen, taps_of(levels, view.window, 0), strict=True):
        np.testing.assert_array_equal(got[..., : view.plane], in_planes(expected, planes).swapaxes(0, 1))
        assert not got[..., view.plane :].any()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(view=views(), planes=st.integers(1, 4), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_the_largest_levels_are_found(library, view, planes, channels, seed):
    levels = np.random.default_rng(seed).integers(0, 2**planes, (view.height, view.width, channels))
    out = filled(planes * channels * view.plane)
    memory = *[filled(view.full_bytes(planes)) for _ in range(2)], filled(view.seen_bytes(1))
    call(library.max_levels, view, channels, planes, in_planes(levels, planes, -1).ravel(), *memory, out)
    expected, seen = in_planes(taps_of(levels, view.window, 0).max(0), planes), plane_bytes(view.out)
    np.testing.assert_array_equal(out.reshape(expected.shape)[..., :seen], expected[..., :seen])


@pytest.mark.parametrize("is_mean", [False, True])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_streams_are_pooled(library, is_mean, data, channels, seed):
    view = data.draw(views(padded=not is_mean))
    x = np.random.default_rng(seed).integers(-(2**15), 2**15, (view.height, view.width, channels))
    out = np.zeros(channels * 8 * view.plane, np.int16)
    call(library.pool, view, channels, 0, int(is_mean), in_stream(x).ravel(), out)
    taps = taps_of(x, view.window, nodes.STREAM_MIN)
    expected = (2 * taps.sum(0) + len(taps)) // (2 * len(taps)) if is_mean else taps.max(0)
    np.testing.assert_array_equal(of_stream(out.reshape(channels, 8, -1), view.out), expected)


def a_network(stem, window, size, groups):
    """A stem, a binary convolution, both with windows, and a dense layer of what they leave."""
    rng = np.random.default_rng(7)

    def thresholds(x, spread):
        t = np.sort(rng.integers(-spread, spread + 1, (6, 3)), axis=1).astype(np.int32)
        levels = np.arange(4, dtype=np.int32)
        return nodes.ThresholdsNode(inputs=(x,), thresholds=t, direction=np.ones(6, np.int8), levels=levels)

    def conv(x, window, groups, out):
        signs = rng.choice(np.array([-1, 1], np.int8), (*window.size, 6 // groups, out))
        return nodes.BinaryConvNode(inputs=(x,), signs=signs, window=window, groups=groups)

    left = View(window, View(stem, Size(*size)).out).out
    weights = rng.integers(-9, 10, (*stem.size, 3, 6)).astype(np.int16)
    scale = {"multiplier": np.int32([99, -77]), "offset": np.int64([5, 3]), "shift": np.uint8([2, 3])}
    network = (
        nodes.StemNode(weights=weights, double_mean=np.int16([255, 0, 99]), window=stem),
        thresholds(0, 3000),
        conv(1, window, groups, 6),
        thresholds(2, 9),
        conv(3, Window((left.height, left.width)), 1, 2),
        nodes.RequantizeNode(inputs=(4,), **scale),
        nodes.ClassifierNode(inputs=(5,), weights=np.eye(2, dtype=np.int16), bias=np.zeros(2, np.int32)),
    )
    return IntegerNetwork(network, 8, 1.0, height=size[0], width=size[1])


STEM = Window((3, 2), padding=((1, 1), (0, 1)))


@pytest.mark.usefixtures("compiler")
@pytest.mark.parametrize(
    "stem, window, size, groups",
    [
        (STEM, Window((2, 3), (1, 1), ((1, 0), (2, 1))), (3, 67), 1),
        (STEM, Window((3, 4), (2, 2), ((0, 1), (3, 0))), (7, 131), 3),
        (Window((3, 5), (4, 6), ((2, 0), (3, 4))), Window((2, 9), (1, 10), ((1, 1), (8, 8))), (9, 300), 1),
        (STEM, Window.centered((3, 3)), (10, 19), 6),
        (Window((4, 21)), Window((1, 1)), (4, 21), 1),
    ],
)
def test_networks_of_wide_images_are_exact(stem, window, size, groups, make_images, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine, "FLAGS", ("-std=c99", "-Os", "-shared", "-fPIC"))
    network = a_network(stem, window, size, groups)
    images = make_images(6, (*size, 3))
    expected = reference.logits(network, images)
    assert len(np.unique(expected)) > 5
    np.testing.assert_array_equal(engine.logits(network, images), expected)
