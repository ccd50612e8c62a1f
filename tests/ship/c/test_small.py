"""What the profile `small` has that random networks seldom or never reach: wide words, and means of many pixels."""

import functools
import re
import subprocess

import numpy as np
import pytest

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.c import engine as c_engine
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.small.profile import SmallProfile, packed
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.load import find_packed, zoo
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.file import read_packed
from tests.ship.random_networks import Builder

SIZE = (6, 5)
FREE = Window((2, 3), (1, 2), ((1, 0), (0, 2)))  # an even size, and another border on each side


@pytest.fixture
def check(monkeypatch, tmp_path, make_images, compiler):
    """`check(network)` compiles the profile `small`, runs it and compares it with the reference."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(
        c_engine, "FLAGS", ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Os", "-shared", "-fPIC")
    )
    monkeypatch.setattr(c_engine, "c_files", functools.partial(c_files, profile="small"))

    def compare(network):
        images = make_images(3, network.image_shape)
        expected = reference.logits(network, images)
        assert len(np.unique(expected)) > 3
        np.testing.assert_array_equal(c_engine.logits(network, images), expected)

    return compare


def finished(build, x, channels):
    """The network that classifies a stream."""
    height, width = build.sizes[x]
    features = height * width * channels
    weights = build.rng.integers(-30, 31, (features, 3)).astype(np.int16)
    build.add(nodes.ClassifierNode(inputs=(x,), weights=weights, bias=np.zeros(3, np.int32)))
    height, width = build.image_size
    return IntegerNetwork(tuple(build.nodes), 8, 0.5, height=height, width=width)


def rescaled(build, x, multiplier, offset):
    """The position of a stream, saturated: x * multiplier + offset, with a number for each channel."""
    constants = {"multiplier": np.int32(multiplier), "offset": np.int64(offset)}
    shift = np.zeros(len(multiplier), np.uint8)
    return build.add(nodes.RequantizeNode(inputs=(x,), shift=shift, **constants))


def begun(channels, size=SIZE):
    """A builder and the position of a stream with numbers of both signs."""
    build = Builder(np.random.default_rng(channels), 3, size)
    weights = build.rng.integers(-9, 10, (1, 1, 3, channels)).astype(np.int16)
    mean = np.full(3, 255, np.int16)
    stem = build.add(nodes.StemNode(weights=weights, double_mean=mean, window=Window((1, 1))))
    return build, rescaled(build, stem, [1] * channels, [0] * channels)


def quantized(build, x, channels, top):
    """The position of levels 0 .. top."""
    thresholds = np.sort(build.rng.integers(-3000, 3000, (channels, top)), axis=1).astype(np.int32)
    direction, levels = build.signs(channels), np.arange(top + 1, dtype=np.int32)
    return build.add(
        nodes.ThresholdsNode(inputs=(x,), thresholds=thresholds, direction=direction, levels=levels)
    )


def grouped(channels, groups, out):
    """A network with a convolution of groups behind a maximum of levels."""
    build, x = begun(channels)
    x = build.add(nodes.MaxPoolNode(inputs=(quantized(build, x, channels, 3),), window=FREE))
    signs = build.signs(3, 2, channels // groups, out)
    window = Window((3, 2), (2, 1), ((0, 2), (1, 1)))
    x = build.add(nodes.BinaryConvNode(inputs=(x,), signs=signs, window=window, groups=groups))
    return finished(build, rescaled(build, x, [1] * out, [0] * out), out)


@pytest.mark.parametrize(
    "channels, groups, out, word_bits",
    [
        (60, 5, 10, 32),  # groups of 12 channels begin and end inside of words
        (44, 4, 12, 16),
        (21, 3, 3, 8),
        (80, 2, 6, 32),  # groups of more than one word
        (64, 64, 64, 32),
        (64, 64, 128, 32),  # two outputs for each channel
        (31, 31, 31, 32),
    ],
)
def test_groups_read_their_own_bits_of_words_and_take_one_bit_per_weight(
    channels, groups, out, word_bits, check
):
    network = grouped(channels, groups, out)
    check(network)
    signs, profile = network.nodes[4].signs, SmallProfile(plan(network, *SIZE))
    assert profile.word_bits == word_bits
    (stored,) = re.findall(r"signs_\d+\[(\d+)\]", profile.program())
    assert int(stored) == signs.size // channels * -(-channels // word_bits)


@pytest.mark.parametrize("top", [1, 2, 5, 200])
def test_the_largest_levels_are_found_in_every_channel_of_a_word(top, check):
    build, x = begun(40)
    x = build.add(nodes.MaxPoolNode(inputs=(quantized(build, x, 40, top),), window=FREE))
    x = build.add(nodes.BinaryConvNode(inputs=(x,), signs=build.signs(1, 1, 40, 24), window=Window((1, 1))))
    check(finished(build, rescaled(build, x, [1] * 24, [0] * 24), 24))


@pytest.mark.parametrize("window", [FREE, Window((3, 3), (2, 2), ((1, 1), (1, 1))), Window(SIZE)])
def test_the_largest_numbers_of_streams_may_be_negative(window, check):
    build, x = begun(5)
    x = rescaled(build, x, [1] * 5, [-20000] * 5)
    check(finished(build, build.add(nodes.MaxPoolNode(inputs=(x,), window=window)), 5))


@pytest.mark.parametrize("window", [None, Window((2, 3), (3, 1)), Window((1, 1), (5, 4)), Window((1, 5))])
def test_means_of_windows_round_halves_up(window, check):
    build, x = begun(5)
    check(finished(build, build.add(nodes.MeanPoolNode(inputs=(x,), window=window)), 5))


@pytest.mark.parametrize("size, bits", [((128, 256), 32), ((128, 257), 64)])
def test_means_of_many_pixels_do_not_overflow(size, bits, check):
    """Of the smallest and the largest number, and of any."""
    build, x = begun(4, size)
    x = rescaled(build, x, [0, 0, 1, 1], [-(2**15), 2**15 - 1, 0, 0])
    network = finished(build, build.add(nodes.MeanPoolNode(inputs=(x,))), 4)
    assert f"#define MODEL_MEAN_BITS {bits}\n" in c_files(network, profile="small")["model.c"]
    check(network)


@pytest.mark.parametrize("name", [name for name in zoo() if "resnet" in name])
def test_a_resnet_has_no_code_of_other_layers(name, compiler, tmp_path):
    for file, content in c_files(read_packed(find_packed(name)), profile="small").items():
        (tmp_path / file).write_text(content)
    subprocess.run([compiler, "-std=c99", "-Os", "-c", "model.c"], cwd=tmp_path, check=True, timeout=300)
    symbols = set(re.findall(rb"model_\w+", (tmp_path / "model.o").read_bytes()))
    assert {b"model_logits", b"model_binary"} <= symbols
    assert not symbols & {b"model_grouped", b"model_add_group", b"model_max_stream", b"model_max_levels"}


def test_packed_words_have_the_first_channel_in_the_lowest_bit():
    bits = np.zeros((2, 19), bool)
    bits[0, [0, 9]] = bits[1, 18] = True
    np.testing.assert_array_equal(packed(bits, 8), [[1, 2, 0], [0, 0, 4]])
    np.testing.assert_array_equal(packed(bits, 16), [[513, 0], [0, 4]])
    np.testing.assert_array_equal(packed(bits, 32), [[513], [1 << 18]])
