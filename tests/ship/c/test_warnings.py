"""The exported code of every network of the zoo compiles without warnings, whatever is optimised, on every target.

`test_writer.py` has some of this in its normal run: what it compiles to run it, it compiles without warnings.
"""

import concurrent.futures
import itertools
import platform
import shutil
import subprocess

import pytest

from qresnet_jax.ship.c.writer import PROFILES, write_c
from qresnet_jax.ship.load import find_packed, zoo
from qresnet_jax.ship.packed.file import read_packed
from qresnet_jax.system.machine import processors
from tests.ship.random_networks import random_network

STRICT = (
    *("-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wsign-conversion", "-Wshadow"),
    "-Werror",
)
LEVELS = ("-O0", "-O1", "-O2", "-O3", "-Os")
# The targets of 32 bits and WebAssembly have no C library here; what the code takes from it is declared below.
ANY = ("", "-DMODEL_VECTOR=8", "-march=native")
X86 = (
    "-m32",
    "-msse4.2",
    "-mavx2",
    "-mavx512f -mavx512bw -mavx512vl",
    "-march=icelake-server",
)
HERE = ANY + X86 if platform.machine() in ("x86_64", "AMD64") else ANY
TARGETS = {
    "gcc": HERE,
    "clang": (*HERE, *(f"--target={x}" for x in ("wasm32", "armv7-none-eabi", "aarch64-none-elf"))),
    "arm-none-eabi-gcc": ("-mcpu=cortex-m0 -mthumb", "-mcpu=cortex-m4 -mthumb"),
}
SECONDS = 600  # for one file
STRING_H = """\
#include <stddef.h>
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int value, size_t n);
"""


def complaints(compiler, directory, rows):
    """What the compiler says about `model.c` in each row, which is an optimisation level and a target."""

    def of_row(row):
        level, target = row
        has_no_library = target == "-m32" or target.startswith("--target")
        library = ["-ffreestanding", "-isystem", "library"] if has_no_library else []
        command = [compiler, *STRICT, level, *target.split(), *library, "-c", "model.c", "-o", "/dev/null"]
        done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS)
        return f"{' '.join(command)}\n{done.stderr}" if done.returncode or done.stderr else ""

    (directory / "library").mkdir()
    (directory / "library" / "string.h").write_text(STRING_H)
    with concurrent.futures.ThreadPoolExecutor(processors()) as pool:
        return "".join(pool.map(of_row, rows))


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo())
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("compiler", TARGETS)
def test_the_code_compiles_without_warnings(compiler, profile, name, tmp_path):
    if shutil.which(compiler) is None:
        pytest.skip(f"there is no {compiler}")
    if (compiler, profile) == ("arm-none-eabi-gcc", "fast"):
        pytest.skip("the profile fast is not for microcontrollers")
    write_c(read_packed(find_packed(name)), tmp_path, profile=profile)
    assert complaints(compiler, tmp_path, itertools.product(LEVELS, TARGETS[compiler])) == ""


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", range(16))
def test_the_code_of_random_networks_compiles_without_warnings(seed, profile, tmp_path, compiler):
    """With the most inlining; other layers and shapes of planes, kernels and levels than the zoo has."""
    network, size = random_network(seed, ordinary=seed % 4 == 0)
    free = {} if network.height else {"height": size[0], "width": size[1]}
    write_c(network, tmp_path, profile=profile, **free)
    assert complaints(compiler, tmp_path, [("-O3", target) for target in HERE]) == ""
