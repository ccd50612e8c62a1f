"""What the profile `small` has that random networks seldom or never reach, in whole networks."""

import re
import subprocess

import numpy as np
import pytest

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.small.profile import SmallProfile
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.load import find_packed, zoo
from qresnet_jax.ship.packed.file import read_packed
from tests.ship.c.small.builders import SIZE, begun, convolved, finished, quantized, rescaled
from tests.ship.random_networks import Builder

FREE = Window((2, 3), (1, 2), ((1, 0), (0, 2)))  # an even size, and another border on each side


def grouped(channels, groups, out):
    """A network with a convolution of groups behind a maximum of levels."""
    build, x = begun(channels)
    x = build.add(nodes.MaxPoolNode(inputs=(quantized(build, x, channels, 3),), window=FREE))
    x = convolved(build, x, channels, out, Window((3, 2), (2, 1), ((0, 2), (1, 1))), groups)
    return finished(build, rescaled(build, x, [1] * out, [0] * out), out)


@pytest.mark.parametrize(
    "channels, groups, out",
    [
        (60, 5, 10),
        (44, 4, 12),
        (21, 3, 9),  # odd numbers of outputs
        (80, 2, 6),  # 15 words for an output
        (16, 16, 16),  # single outputs
        (16, 16, 32),  # two outputs for each channel
        (1, 1, 1),
    ],
)
def test_groups_read_their_own_channels_and_take_a_bit_per_weight(channels, groups, out, check):
    network = grouped(channels, groups, out)
    check(network)
    signs, profile = network.nodes[4].signs, SmallProfile(plan(network, *SIZE))
    (stored,) = re.findall(r"uint32_t model_signs_\d+\[(\d+)\]", profile.program())
    assert int(stored) == out * -(-signs[..., 0].size // 32)


@pytest.mark.parametrize("share", [0, 0.3, 1])
@pytest.mark.parametrize("out, groups", [(1, 1), (3, 3), (5, 1)])
def test_levels_of_few_outputs_are_exact_whatever_their_signs(share, out, groups, check):
    """An output of its own is turned if most of its signs are +1, and its thresholds with it."""
    build, x = begun(6)
    signs = np.where(build.rng.random((3, 3, 6 // groups, out)) < share, 1, -1).astype(np.int8)
    window = Window.centered((3, 3))
    x = convolved(build, quantized(build, x, 6, 3), 6, out, window, groups, signs)
    direction = build.signs(out)
    middle = direction * round(54 * 1.3 / groups * (2 * share - 1))  # of what a threshold is compared with
    thresholds = (middle[:, None] + [-15, 0, 15]).astype(np.int32)
    levels = np.arange(4, dtype=np.int32)
    x = build.add(
        nodes.ThresholdsNode(inputs=(x,), thresholds=thresholds, direction=direction, levels=levels)
    )
    x = convolved(build, x, out, 4, window)
    check(finished(build, rescaled(build, x, [9] * 4, [0] * 4), 4))


@pytest.mark.parametrize("shift", [0, 40])
def test_outputs_whose_multiplier_has_no_negative_are_exact(shift, check):
    """They would be turned for their signs: those of the second one, or all those of a single one, are +1."""
    build, x = begun(5)
    signs = np.broadcast_to(np.int8([-1, 1, 1]), (1, 1, 5, 3))
    x = convolved(build, quantized(build, x, 5, 3), 5, 3, signs=signs)
    constants = {"offset": np.int64([2**35, 0, 7]), "shift": np.full(3, shift, np.uint8)}
    x = build.add(nodes.RequantizeNode(inputs=(x,), multiplier=np.full(3, -(2**31), np.int32), **constants))
    check(finished(build, rescaled(build, x, [7] * 3, [3, 2, 1]), 3), least=2)


@pytest.mark.parametrize("top", [1, 2, 5, 200])
def test_the_largest_levels_are_found_in_every_channel(top, check):
    build, x = begun(40)
    x = build.add(nodes.MaxPoolNode(inputs=(quantized(build, x, 40, top),), window=FREE))
    x = convolved(build, x, 40, 24)
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
    assert {b"model_logits", b"model_convolve", b"model_stem"} <= symbols
    others = ("max_levels", "max_stream", "dense_layer", "rescale")
    assert not symbols & {f"model_{name}".encode() for name in others}


@pytest.mark.parametrize("largest, stored", [(128, "uint16_t"), (129, "uint32_t")])
@pytest.mark.parametrize("size, window", [((3, 5), Window((3, 5))), ((6, 5), Window((4, 4), (2, 1)))])
def test_stems_of_few_pixels_have_weights_of_a_byte_if_they_fit(size, window, largest, stored, check):
    """45 inputs, an odd number, of one pixel, and 48 of four."""
    build = Builder(np.random.default_rng(0), 3, size)
    weights = build.rng.integers(-largest, 128, (*window.size, 3, 6)).astype(np.int16)
    weights[0, 0, 0, :2] = -largest, 127
    x = build.add(nodes.StemNode(weights=weights, double_mean=np.int16([255, 0, 99]), window=window))
    network = finished(build, rescaled(build, x, [7] * 6, [3] * 6), 6)
    check(network)
    assert re.findall(r"(\w+) model_weights_\d+\[", c_files(network, profile="small")["model.c"]) == [stored]
