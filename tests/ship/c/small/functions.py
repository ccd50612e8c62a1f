"""The functions of the headers in C: wrappers, structs as in C, and calls that watch what is written."""

import ctypes
import pathlib

import numpy as np

from qresnet_jax.ship.c import small

FOLDER = pathlib.Path(small.__file__).parent
CODE = """
#include <stddef.h>
static size_t slack;
#define MODEL_SLACK slack
#include "conv.h"
#include "dense.h"
#include "pool.h"
#include "stem.h"
void see(const model_window *w, size_t words, const model_word *from, size_t planes, size_t tile, size_t i, size_t j,
         model_word *to)
{
    slack = words;
    model_see(w, from + words, planes, tile, i, j, to);
}
void max_levels(const model_window *w, size_t words, const model_word *from, size_t channels, size_t planes,
                model_word *seen, model_word *to)
{
    slack = words;
    model_max_levels(w, from + words, channels, planes, seen, to);
}
void max_stream(const model_window *w, const model_int16 *x, size_t channels, model_int16 *to)
{
    model_max_stream(w, x, channels, to);
}
void mean_stream(const model_window *w, const model_int16 *x, size_t channels, model_int16 *to)
{
    model_mean_stream(w, x, channels, to);
}
void add(const model_word *taps, const model_index *list, size_t count, model_word *sum)
{
    model_add(taps, list, count, sum);
}
void add_levels(const model_word *taps, size_t planes, const model_index *list, size_t count, model_word *sum)
{
    model_add_levels(taps, planes, list, count, sum);
}
void list(const uint32_t *first, const uint32_t *second, int part, size_t taps, size_t planes, model_index *to,
          size_t *length)
{
    *length = model_list(first, second, (enum model_part)part, taps, planes, to);
}
void start(const model_conv *c, const model_word *taps, const model_index *all, size_t count, model_word *to)
{
    model_start(c, taps, all, count, to);
}
void numbers(const model_word *sum, size_t bits, int32_t *to)
{
    model_numbers(sum, bits, to);
}
void compare(const model_thresholds *t, size_t channel, const model_word *sum, size_t bits, model_word *to, size_t words)
{
    model_compare(t, channel, sum, bits, to, words);
}
void quantize(const model_thresholds *t, size_t channel, const model_int16 *stream, const int32_t *others, size_t pixels,
              model_word *to, size_t words)
{
    model_quantize(t, channel, stream, others, pixels, to, words);
}
void write_stream(const model_requantize *r, size_t channel, int32_t *x, const model_int16 *addend, int relu,
                  size_t pixels, model_int16 *to)
{
    model_write(r, channel, x, addend, relu, pixels, to);
}
void counts(const uint32_t *x, size_t n, int32_t *ones, size_t *zeros)
{
    size_t k;
    for (k = 0; k < n; k++) {
        ones[k] = model_count(x[k]);
        zeros[k] = x[k] == 0 ? 32 : model_zeros(x[k]);
    }
}
"""
_SIZE, _POINTER = ctypes.c_size_t, ctypes.c_void_p
EDGE = 64  # bytes before and behind each array


class Window(ctypes.Structure):
    """A `model_window`."""

    _fields_ = [
        *((name, _SIZE) for name in ("height", "width", "out_height", "out_width", "rows", "columns")),
        *((name, ctypes.c_uint16) for name in ("down", "right", "top", "left")),
    ]


class Thresholds(ctypes.Structure):
    """A `model_thresholds`."""

    _fields_ = [
        *((name, _POINTER) for name in ("narrow", "wide", "first", "change")),
        *((name, _SIZE) for name in ("rows", "steps", "planes")),
    ]


class Requantize(ctypes.Structure):
    """A `model_requantize`."""

    _fields_ = [(name, _POINTER) for name in ("multiplier", "shift", "narrow", "wide", "large")]


class Output(ctypes.Structure):
    """A `model_output`."""

    _fields_ = [
        *((name, _POINTER) for name in ("thresholds", "requantize")),
        *((name, _SIZE) for name in ("channels", "pixels")),
        ("relu", ctypes.c_int),
    ]


class Conv(ctypes.Structure):
    """A `model_conv`."""

    _fields_ = [
        *((name, _POINTER) for name in ("signs", "order")),
        *((name, _SIZE) for name in ("in", "out", "groups", "planes", "bits", "tiles")),
        ("output", Output),
        ("window", Window),
    ]


def struct(kind, **fields):
    """A struct, which keeps the arrays that it points to."""
    made = kind(**{k: x.ctypes.data if isinstance(x, np.ndarray) else x for k, x in fields.items()})
    made.arrays = fields
    return made


def call(function, *arguments):
    """Calls a function with structs, integers, None, and arrays, around which it must not write."""
    memories = {k: _edged(x) for k, x in enumerate(arguments) if isinstance(x, np.ndarray)}
    values = []
    for k, x in enumerate(arguments):
        if k in memories:
            values.append(_POINTER(memories[k].ctypes.data + EDGE))
        elif isinstance(x, ctypes.Structure):
            values.append(ctypes.byref(x))
        else:
            values.append(x if x is None else _SIZE(x))
    function.restype = None
    function(*values)
    for k, memory in memories.items():
        assert (memory[:EDGE] == 77).all() and (memory[-EDGE:] == 77).all()
        arguments[k].reshape(-1).view(np.uint8)[:] = memory[EDGE:-EDGE]


def _edged(x):
    edge = np.full(EDGE, 77, np.uint8)
    return np.concatenate([edge, x.reshape(-1).view(np.uint8), edge])


def in_words(bits):
    """Words of the last axis, whose first bit is the lowest one; bits behind the last one are zeros."""
    padded = np.pad(bits, [(0, 0)] * (bits.ndim - 1) + [(0, -bits.shape[-1] % 32)])
    octets = np.packbits(padded.astype(np.uint8), axis=-1, bitorder="little")
    return np.ascontiguousarray(octets).view(np.uint32)


def of_words(words, n):
    """The first n bits of words."""
    octets = np.ascontiguousarray(words, np.uint32).view(np.uint8)
    return np.unpackbits(octets, axis=-1, bitorder="little")[..., :n]


def in_planes(levels, planes):
    """Bit planes `[C, planes, words]` of levels `[H, W, C]`."""
    flat = levels.reshape(-1, levels.shape[2]).T
    return in_words(flat[:, None] >> np.arange(planes)[:, None] & 1)


def of_planes(words, n):
    """The first n numbers of bit planes `[..., planes, words]`."""
    bits = of_words(words, n).astype(np.int64)
    return (bits << np.arange(bits.shape[-2])[:, None]).sum(-2)
