"""The export as one header: it compiles as C and as C++, stands in one source file of several, and gives the same logits."""

import shutil
import subprocess

import numpy as np
import pytest

from qresnet_jax.ship import reference
from qresnet_jax.ship.c.writer import PROFILES, write_c
from tests.ship.random_networks import random_network

# Two networks, each in a source file of its own; a third one includes both headers, or is the only one.
MAIN = """
#include "a.h"
#include "b.h"
#include <stdio.h>

int main(void)
{
    static uint8_t a[A_HEIGHT * A_WIDTH * A_CHANNELS], b[B_HEIGHT * B_WIDTH * B_CHANNELS];
    static uint8_t of_a[A_BUFFER_BYTES], of_b[B_BUFFER_BYTES];
    int32_t first[A_CLASSES], second[B_CLASSES];
    int k;
    if (fread(a, sizeof a, 1, stdin) != 1 || fread(b, sizeof b, 1, stdin) != 1)
        return 1;
    a_logits(a, first, of_a);
    b_logits(b, second, of_b);
    for (k = 0; k < A_CLASSES; k++)
        printf("%ld ", (long)first[k]);
    for (k = 0; k < B_CLASSES; k++)
        printf("%ld ", (long)second[k]);
    printf("%s %s\\n", a_class_names[0], b_class_names[0]);
    return 0;
}
"""
COMPILERS = {
    "C": ["gcc", "-x", "c", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"],
    "C++ 11": [
        "g++",
        "-x",
        "c++",
        "-std=gnu++11",
        "-Wall",
        "-Werror",
    ],  # -Wextra misses fields that C fills with zeros
    "C++ 20": ["clang++", "-x", "c++", "-std=c++20", "-Wall", "-Wextra", "-Werror"],
}


@pytest.mark.parametrize("alone", [False, True], ids=["in a file each", "in one file"])
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("language", COMPILERS)
def test_two_headers_in_one_program_give_the_logits_of_the_reference(
    language, profile, alone, tmp_path, make_images
):
    compiler = COMPILERS[language]
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"there is no {compiler[0]}")
    given, want = b"", []
    for prefix, seed in (("a", 3), ("b", 11)):
        network, size = random_network(seed)
        (header, example) = write_c(
            network, tmp_path, profile=profile, prefix=prefix, layout="header", height=size[0], width=size[1]
        )
        assert (header.name, example.name) == (f"{prefix}.h", f"{prefix}.example.c")
        included = f'#define {prefix.upper()}_IMPLEMENTATION\n#include "{prefix}.h"\n#include "{prefix}.h"\n'
        (tmp_path / f"{prefix}.c").write_text(included)
        images = make_images(1, (*size, network.channels))
        given += images.tobytes()
        want += reference.logits(network, images)[0].tolist()
    defined = "#define A_IMPLEMENTATION\n#define B_IMPLEMENTATION\n" if alone else ""
    (tmp_path / "main.c").write_text(defined + MAIN)
    files = ["main.c"] if alone else ["a.c", "b.c", "main.c"]
    subprocess.run([*compiler, "-O1", *files, "-o", "main"], cwd=tmp_path, check=True, timeout=300)
    done = subprocess.run([tmp_path / "main"], input=given, capture_output=True, check=True, timeout=300)
    *logits, _, _ = done.stdout.split()
    np.testing.assert_array_equal(np.array(logits, np.int64), want)


def test_the_example_needs_no_other_source_file(tmp_path, make_images):
    network, size = random_network(3)
    _, example = write_c(network, tmp_path, profile="small", layout="header", height=size[0], width=size[1])
    assert "cc -O3 example.c -o example" in example.read_text()
    subprocess.run(["cc", "-O1", example.name, "-o", "run"], cwd=tmp_path, check=True, timeout=300)
    images = make_images(3, (*size, network.channels))
    done = subprocess.run(
        [tmp_path / "run"], input=images.tobytes(), capture_output=True, check=True, timeout=300
    )
    logits = [line.split()[: network.classes] for line in done.stdout.decode().splitlines()]
    np.testing.assert_array_equal(np.array(logits, np.int64), reference.logits(network, images))


def test_another_layout_is_refused(tmp_path):
    network, size = random_network(3)
    with pytest.raises(ValueError, match="layout must be one of pair, header, got 'one'"):
        write_c(network, tmp_path, layout="one", height=size[0], width=size[1])
    assert not list(tmp_path.iterdir())
