"""What windows see of bit planes, and the largest levels and numbers that they see."""

import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import geometry, nodes, reference
from tests.ship.c.small.functions import FOLDER, Window, call, in_planes, in_words

SIZES = ("height", "width", "out_height", "out_width")
FIELDS = (*SIZES, "rows", "columns", "down", "right", "top", "left")


@st.composite
def windows(draw, padded=True):
    """A window and the size of an image, which is up to five words wide."""
    axes = []
    for most in (9, 140):
        size = draw(st.integers(1, most))
        kernel = draw(st.integers(1, 5) if padded else st.integers(1, min(size, 5)))
        stride = draw(st.sampled_from([1, 1, 1, 2, 2, 3, 9]))
        border = [draw(st.integers(0, kernel - 1)) for _ in range(2)] if padded else [0, 0]
        if padded and draw(st.booleans()):  # as much behind as leaves the size as it is
            border[1] = kernel - 1 - border[0]
        border = [kernel - 1] * 2 if size + sum(border) < kernel else border
        axes.append((size, kernel, stride, tuple(border)))
    size, *fields = zip(*axes, strict=True)
    return geometry.Window(*fields), size


def fields_of(window, size):
    """The values of the fields of a `model_window`."""
    extents = window.leaves(*(geometry.Extent(n, 0) for n in size))
    (top, _), (left, _) = window.padding
    return (*size, *(x.add for x in extents), *window.size, *window.strides, top, left)


def struct_of(window, size):
    return Window(**dict(zip(FIELDS, fields_of(window, size), strict=True)))


def slack_of(window, size):
    """Words before and behind bit planes that may be read, as the profile has them."""
    return (window.size[0] * size[1] + window.size[1]) // 32 + 2


def surrounded(planes, slack, rng):
    """Words `[planes, words]` with anything before and behind."""
    garbage = rng.integers(0, 2**32, (2, slack), dtype=np.uint32)
    return np.concatenate([garbage[0], planes.ravel(), garbage[1]])


def levels_of(rng, size, channels, planes):
    """Levels, and their bit planes with anything in the bits behind the last pixel."""
    levels = rng.integers(0, 2**planes, (*size, channels))
    words = in_planes(levels, planes)
    pixels = size[0] * size[1]
    words[..., -1] |= ~in_words(np.ones(pixels, bool))[-1] & rng.integers(
        0, 2**32, words.shape[:2], dtype=np.uint32
    )
    return levels, words


def taps_of(x, window, border=0):
    """What each pixel of a window sees of `x[H, W, C]`: `[kh * kw, H', W', C]`."""
    return np.moveaxis(reference._windows(x[None], window, border)[0], 2, 0)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(windows(), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_every_tap_of_every_tile_is_what_the_window_sees(library, drawn, planes, channels, seed):
    window, size = drawn
    rng = np.random.default_rng(seed)
    levels, words = levels_of(rng, size, channels, planes)
    expected = taps_of(levels, window)
    slack, memory = slack_of(window, size), surrounded(words, slack_of(window, size), rng)
    tiles = -(-expected[0, ..., 0].size // 32)
    for tap, of_tap in enumerate(expected):
        i, j = divmod(tap, window.size[1])
        want = in_planes(of_tap, planes).reshape(channels * planes, -1)
        for tile in range(tiles):
            got = np.full(channels * planes, 0x5A5A5A5A, np.uint32)
            call(library.see, struct_of(*drawn), slack, memory, channels * planes, tile, i, j, got)
            np.testing.assert_array_equal(got, want[:, tile])


@settings(max_examples=150, deadline=None, derandomize=True)
@given(windows(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_the_largest_levels_are_found(library, drawn, planes, channels, seed):
    window, size = drawn
    rng = np.random.default_rng(seed)
    levels, words = levels_of(rng, size, channels, planes)
    expected = in_planes(taps_of(levels, window).max(0), planes)
    slack = slack_of(window, size)
    got, seen = np.full_like(expected, 0x5A5A5A5A), np.zeros(channels * planes, np.uint32)
    memory = surrounded(words, slack, rng)
    call(library.max_levels, struct_of(*drawn), slack, memory, channels, planes, seen, got)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("is_mean", [False, True])
@settings(max_examples=100, deadline=None, derandomize=True)
@given(data=st.data(), channels=st.integers(1, 3), seed=st.integers(0, 99))
def test_streams_are_pooled(library, is_mean, data, channels, seed):
    """Numbers of all sizes, or only a few, so that means have halves."""
    window, size = data.draw(windows(padded=not is_mean))
    low, high = data.draw(
        st.sampled_from([(-(2**15), 2**15), (-3, 3), (2**15 - 2, 2**15), (-(2**15), 2 - 2**15)])
    )
    x = np.random.default_rng(seed).integers(low, high, (*size, channels)).astype(np.int16)
    seen = taps_of(x, window, nodes.STREAM_MIN)
    if is_mean:
        count = len(seen)
        expected = (2 * seen.sum(0, dtype=np.int64) + count) // (2 * count)
    else:
        expected = seen.max(0)
    out = np.full((channels, *expected.shape[:2]), 12345, np.int16)
    function = library.mean_stream if is_mean else library.max_stream
    call(function, struct_of(window, size), np.moveaxis(x, 2, 0).copy(), channels, out)
    np.testing.assert_array_equal(np.moveaxis(out, 0, 2), expected)


READER = """
#include <stdio.h>
#include <stdlib.h>
static size_t slack;
#define MODEL_SLACK slack
#include "pool.h"
int main(void)
{
    unsigned long f[12];
    model_word sum = 0;
    int k;
    for (;;) {
        for (k = 0; k < 12; k++)
            if (scanf("%lu", f + k) != 1)
                return printf("%lu", (unsigned long)sum) < 0;
        {
            const model_window w = {f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8], f[9]};
            const size_t words = 3 * model_words(f[0] * f[1]) + 2 * f[10], tiles = model_words(f[2] * f[3]);
            model_word *const memory = (model_word *)malloc(4 * words), to[3];
            size_t tile, i, j;
            slack = f[10];
            memset(memory, 255, 4 * words);
            for (tile = 0; tile < tiles; tile++)
                for (i = 0; i < w.rows; i++)
                    for (j = 0; j < w.columns; j++) {
                        model_see(&w, memory + slack, 3, tile, i, j, to);
                        sum ^= to[0] ^ to[1] ^ to[2];
                    }
            free(memory);
        }
    }
}
"""


def test_nothing_beyond_the_slack_is_read(compiler, tmp_path):
    """Under the address sanitizer, for all kinds of small windows and for a few large ones."""
    rows = []
    rng = np.random.default_rng(0)
    for _ in range(3000):
        size = tuple(rng.integers(1, [8, 80]).tolist())
        kernel = tuple(rng.integers(1, 6, 2).tolist())
        strides = tuple(rng.choice([1, 1, 2, 3, 9], 2).tolist())
        padding = tuple((k - 1, k - 1) if rng.random() < 0.5 else (0, k - 1) for k in kernel)
        window = geometry.Window(kernel, strides, padding)
        if all(n + sum(p) >= k for n, p, k in zip(size, padding, kernel, strict=True)):
            rows.append((*fields_of(window, size), slack_of(window, size), 0))
    for size, kernel in (((1, 1), (40, 70)), ((3, 33), (1, 90)), ((50, 2), (60, 1))):
        for strides in ((1, 1), (1, 2), (2, 3)):
            window = geometry.Window(kernel, strides, tuple((k - 1, k - 1) for k in kernel))
            rows.append((*fields_of(window, size), slack_of(window, size), 0))
    (tmp_path / "reader.c").write_text(READER)
    flags = ["-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [compiler, *flags, f"-I{FOLDER}", "reader.c", "-o", "reader"]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if built.returncode and "sanitize" in built.stderr + built.stdout:
        pytest.skip("there is no address sanitizer")
    assert built.returncode == 0, built.stderr
    text = "\n".join(" ".join(map(str, row)) for row in rows)
    done = subprocess.run([tmp_path / "reader"], input=text, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")
