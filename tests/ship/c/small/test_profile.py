"""The memory that the profile `small` asks for, and networks at the limits of what it takes."""

import itertools
import subprocess

import numpy as np
import pytest

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.small import profile
from qresnet_jax.ship.c.small.profile import SmallProfile
from qresnet_jax.ship.c.writer import write_c
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.load import find_packed, zoo
from qresnet_jax.ship.packed.file import read_packed
from tests.ship.c.small.builders import begun, convolved, finished, quantized, rescaled
from tests.ship.random_networks import random_network

# Reads images, and for each offset and content of the buffer prints the logits of each image. The buffer ends where its memory does.
MAIN = """
#include "model.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void)
{
    static uint8_t images[8][MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS];
    static const int contents[3] = {0, 255, 0x5a};
    const size_t n = fread(images, sizeof images[0], 8, stdin);
    size_t offset, content, i, k;
    for (offset = 0; offset < 4; offset++)
        for (content = 0; content < 3; content++) {
            uint8_t *const memory = (uint8_t *)malloc(MODEL_BUFFER_BYTES + offset);
            memset(memory, contents[content], MODEL_BUFFER_BYTES + offset);
            for (i = 0; i < n; i++) {
                int32_t *const logits = (int32_t *)malloc(MODEL_CLASSES * sizeof *logits);
                model_logits(images[i], logits, memory + offset);
                for (k = 0; k < MODEL_CLASSES; k++)
                    printf("%ld ", (long)logits[k]);
                free(logits);
            }
            free(memory);
        }
    return 0;
}
"""
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="session")
def sanitizer(compiler, tmp_path_factory):
    """The command of a compiler that watches memory."""
    folder = tmp_path_factory.mktemp("sanitizer")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    command = [compiler, "-std=c99", "-O0", *SANITIZE]
    built = subprocess.run([*command, "empty.c", "-o", "empty"], cwd=folder, timeout=300)
    if built.returncode or subprocess.run([folder / "empty"], timeout=300).returncode:
        pytest.skip("there is no address sanitizer")
    return command


def small_of(network):
    return SmallProfile(plan(network, network.height, network.width))


def check_memory(network, size, make_images, command, folder, n=3):
    """The network gives the logits of the reference in a buffer of just the size it asks for, wherever that is."""
    write_c(
        network,
        folder,
        profile="small",
        **({} if network.height else dict(zip(("height", "width"), size, strict=True))),
    )
    (folder / "main.c").write_text(MAIN)
    subprocess.run([*command, "main.c", "model.c", "-o", "run"], cwd=folder, check=True, timeout=300)
    images = make_images(n, (*size, network.channels))
    done = subprocess.run([folder / "run"], input=images.tobytes(), capture_output=True, timeout=300)
    assert (done.returncode, done.stderr.decode()) == (0, "")
    got = np.array(done.stdout.split(), np.int64).reshape(12, n, -1)
    expected = reference.logits(network, images)
    np.testing.assert_array_equal(got, np.broadcast_to(expected, got.shape))
    return expected


def of_all_bits():
    """Levels of 1 to 8 bits and of 14 bits, of a stream and of a convolution, one after the other."""
    build, x = begun(5, (6, 7))
    window = Window.centered((3, 3))
    for bits in (1, 2, 3, 4, 5, 6, 7, 8):
        x = convolved(build, quantized(build, x, 5, 2**bits - 1), 5, 5, window)
        x = quantized(build, x, 5, 2**bits - 1, reach=10 * 2**bits)
        x = rescaled(build, convolved(build, x, 5, 5, window), [2048 >> bits] * 5, [100, 0, -50, 7, 9])
    steps = np.arange(-(2**13) + 1, 2**13, dtype=np.int32)[None]
    levels = np.arange(2**14, dtype=np.int32)
    fine = {"direction": np.ones(1, np.int8), "levels": levels}
    x = build.add(nodes.ThresholdsNode(inputs=(x,), thresholds=steps, **fine))
    x = build.add(nodes.ThresholdsNode(inputs=(convolved(build, x, 5, 5),), thresholds=steps, **fine))
    x = rescaled(build, convolved(build, x, 5, 5, window), [1] * 5, [0] * 5)
    return finished(build, x, 5)


def of_planes(channels):
    """A convolution of `25 * 12 * channels` words of taps, of levels of 12 bits, most of which are zeros."""
    build, x = begun(channels, (2, 3))
    levels = np.append(0, 2 ** np.arange(12)).astype(np.int32)
    steps = np.sort(build.rng.integers(-2000, 2000, (channels, 12)), axis=1).astype(np.int32)
    x = build.add(
        nodes.ThresholdsNode(inputs=(x,), thresholds=steps, direction=build.signs(channels), levels=levels)
    )
    window = Window((5, 5), (1, 1), ((2, 2), (2, 3)))
    x = convolved(build, x, channels, 3, window)
    shift, offset = np.full(3, 4, np.uint8), np.zeros(3, np.int64)
    x = build.add(
        nodes.RequantizeNode(inputs=(x,), multiplier=np.int32([1, -1, 2]), offset=offset, shift=shift)
    )
    return finished(build, x, 3)


def of_one_pixel():
    """All layers on images of one pixel: convolutions with and without groups, a dense one, and pools."""
    build, x = begun(6, (1, 1))
    window = Window.centered((3, 3))
    x = quantized(build, x, 6, 3)
    x = build.add(nodes.MaxPoolNode(inputs=(x,), window=Window((2, 2), (1, 1), ((1, 1), (1, 1)))))
    x = convolved(build, x, 6, 9, Window((3, 2), (2, 2), ((2, 2), (1, 1))), groups=3)
    x = quantized(build, x, 9, 3, reach=5)
    x = convolved(build, x, 9, 8, Window((2, 2)))  # a dense layer
    x = quantized(build, x, 8, 7, reach=9)
    x = rescaled(build, convolved(build, x, 8, 4, window, groups=2), [99] * 4, [0] * 4)
    x = build.add(nodes.MaxPoolNode(inputs=(x,), window=window))
    return finished(build, build.add(nodes.MeanPoolNode(inputs=(x,))), 4)


def of_a_large_image():
    build, x = begun(2, (224, 224))
    x = convolved(build, quantized(build, x, 2, 3), 2, 2, Window.centered((3, 3)))
    x = rescaled(build, x, [500, -700], [9, 0])
    return finished(build, build.add(nodes.MeanPoolNode(inputs=(x,))), 2)


def of_several_tiles():
    """Convolutions that list their taps once for several tiles, of which the last ones are fewer."""
    build, x = begun(6, (30, 31))
    for window, groups in ((Window.centered((3, 3)), 1), (Window((2, 3), (1, 1), ((1, 0), (2, 2))), 3)):
        x = convolved(build, quantized(build, x, 6, 3), 6, 6, window, groups)
        x = rescaled(build, x, [200, -200, 100, 300, 50, 77], [0, 1, 2, 3, 4, 5])
    return finished(build, build.add(nodes.MeanPoolNode(inputs=(x,))), 6)


MADE = {
    "1 to 14 bits": of_all_bits,
    "indices of 16 bits": lambda: of_planes(218),
    "indices of 32 bits": lambda: of_planes(219),
    "one pixel": of_one_pixel,
    "224 x 224 pixels": of_a_large_image,
    "several tiles": of_several_tiles,
}


@pytest.mark.parametrize("name", MADE)
def test_the_buffer_is_just_as_large_as_needed_and_may_be_anywhere(name, make_images, sanitizer, tmp_path):
    network = MADE[name]()
    expected = check_memory(network, (network.height, network.width), make_images, sanitizer, tmp_path)
    assert len(np.unique(expected)) > 3


@pytest.mark.parametrize(
    "seed", [*range(4), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(4, 100))]
)
def test_the_buffers_of_random_networks_are_large_enough(seed, make_images, sanitizer, tmp_path):
    network, size = random_network(1000 + seed, ordinary=seed % 4 == 0)
    check_memory(network, size, make_images, sanitizer, tmp_path)


def test_the_networks_above_have_what_their_names_say():
    profiles = {name: small_of(make()) for name, make in MADE.items()}
    widths = {name: small.index_bits for name, small in profiles.items()}
    assert widths == dict.fromkeys(MADE, 16) | {"indices of 32 bits": 32}
    several = profiles["several tiles"]
    tiles = {x: -(-several.plan.size(x).height * several.plan.size(x).width // 32) for x in several.tiles}
    assert min(several.tiles.values()) > 1 and any(n % several.tiles[x] for x, n in tiles.items())
    assert {several.plan.planes(i) for i, x in enumerate(several.plan.values) if x.kind == "levels"} == {2}


@pytest.mark.parametrize("name", [*zoo(), *range(40)])
def test_several_tiles_need_at_most_a_tenth_more_memory_than_one(name):
    if isinstance(name, str):
        network = read_packed(find_packed(name))
        size = network.height, network.width
    else:
        network, size = random_network(name, ordinary=name % 2 == 0)
    small = SmallProfile(plan(network, *size))
    single = small._memory(dict.fromkeys(small.tiles, 1)).nbytes
    assert single <= small.memory.nbytes <= 1.1 * single
    for result, tiles in small.tiles.items():
        of_result = small.plan.size(result)
        assert 1 <= tiles <= min(-(-of_result.height * of_result.width // 32), profile._MOST_TILES)


def test_words_before_and_after_levels_are_as_many_as_a_window_reaches():
    """What `test_words.py` shows to be enough, for the window that reaches farthest."""
    network = of_several_tiles()
    assert small_of(network).slack == (3 * 31 + 3) // 32 + 2
    build, x = begun(3, (4, 40))
    window = Window((3, 2), (1, 1), ((2, 2), (1, 1)))
    x = build.add(nodes.MaxPoolNode(inputs=(quantized(build, x, 3, 3),), window=window))
    x = rescaled(build, convolved(build, x, 3, 2), [1] * 2, [0] * 2)
    assert small_of(finished(build, x, 2)).slack == (3 * 40 + 2) // 32 + 2


def test_levels_streams_and_working_memories_lie_apart_while_they_are_used():
    """Each with the slack of levels."""
    for seed in range(30):
        network, size = random_network(seed)
        small = SmallProfile(plan(network, *size))
        steps, memory = small.plan.steps, small.memory
        used = {
            (what, x): (offset, nbytes)
            for what, offsets, sizes in (
                ("result", memory.offsets, {step.result: small._nbytes(step.result) for step in steps}),
                (
                    "work",
                    memory.scratch,
                    {t: small._scratch(step, small.tiles) for t, step in enumerate(steps)},
                ),
            )
            for x, offset in offsets.items()
            for nbytes in [sizes[x]]
        }
        assert all(offset + nbytes <= memory.nbytes for offset, nbytes in used.values())
        for t, step in enumerate(steps):
            live = {("work", t), *(("result", x) for x in step.operands)}
            if small.plan.values[step.result].kind == "levels":  # a stream may take the place of one
                live.add(("result", step.result))
            for a, b in itertools.combinations([used[key] for key in live if used[key][1]], 2):
                assert a[0] + a[1] <= b[0] or b[0] + b[1] <= a[0]
