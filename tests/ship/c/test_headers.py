"""The C headers are C on their own, and an export is what the preprocessor makes of them."""

import pathlib
import platform
import re
import shutil
import subprocess

import pytest

from qresnet_jax.ship import c
from qresnet_jax.ship.c.fast.layout import STEM_OUTPUTS, STEM_PIXELS
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.text import amalgamated
from qresnet_jax.ship.c.writer import PROFILES, c_files
from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed
from tests.ship.random_networks import random_network

FOLDER = pathlib.Path(c.__file__).parent
HEADERS = sorted(FOLDER.rglob("*.h"))
STRICT = [
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-Wpedantic",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wshadow",
    "-Werror",
]
TARGETS = {
    "plain C": ["-DMODEL_VECTOR=8"],
    "AVX-512": ["-mavx512f", "-mavx512bw", "-mavx512vl"],
}
NETWORKS = {
    "ResNet-8": lambda: read_packed(find_packed("digits_resnet8_w1a2")),
    "ResNet-20": lambda: read_packed(find_packed("fashion_mnist_resnet20_w1a2")),
    "every header": lambda: random_network(890)[0],
}


def target_flags(target):
    if target != "plain C" and platform.machine() not in ("x86_64", "AMD64"):
        pytest.skip(f"{target} is for x86-64")
    return TARGETS[target]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("program", ["gcc", "clang"])
def test_every_header_compiles_alone(program, target):
    """Headers such as `conv.h` include those for vectors of one width for each width."""
    if shutil.which(program) is None:
        pytest.skip(f"there is no {program}")
    command = [program, *STRICT, *target_flags(target), "-fsyntax-only", *map(str, HEADERS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_header_is_guarded_but_those_for_one_width():
    """No program includes headers of both profiles, so a guard of one may also be one of the other."""
    guards = {}
    for path in HEADERS:
        guard = re.search(r"^#ifndef (\w+_H)\n#define \1$", path.read_text(), re.MULTILINE)
        assert (guard is None) == (path.parent.name == "of_width")
        if guard is not None:
            guards[path.parent, guard[1]] = path
    assert len(guards) == len(HEADERS) - 4


def test_the_buffer_has_space_for_all_outputs_and_pixels_that_the_stem_takes_at_once():
    code = (FOLDER / "fast" / "headers" / "stem.h").read_text()
    for name, space in (("MODEL_STEM_OUTPUTS", STEM_OUTPUTS), ("MODEL_STEM_PIXELS", STEM_PIXELS)):
        assert max(int(n) for n in re.findall(rf"#define {name} (\d+)u", code)) == space


@pytest.fixture(scope="module", params=NETWORKS)
def network(request):
    return NETWORKS[request.param]()


def test_one_of_the_networks_needs_every_header():
    code = c_files(NETWORKS["every header"](), many=True)["model.c"]
    for path in HEADERS:
        if path.parent.name != "small":
            assert path.read_text().split("*/")[0] in code


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("profile", PROFILES)
def test_an_export_is_what_the_preprocessor_makes_of_the_headers(
    profile, target, network, compiler, tmp_path
):
    files = c_files(network, profile=profile)
    chosen = PROFILES[profile](plan(network, network.height, network.width))
    program = files["model.c"].replace(chosen.source(), chosen.program())
    assert '#include "of_width/' not in files["model.c"] and program.count('#include "') > 1
    (tmp_path / "model.h").write_text(files["model.h"])
    folder = FOLDER / "fast" / "headers" if profile == "fast" else FOLDER / "small"
    options = ["-std=c99", "-E", "-P", *target_flags(target), f"-I{tmp_path}", f"-I{folder}", "-xc", "-"]
    texts = [
        subprocess.run(
            [compiler, *options], input=text, capture_output=True, text=True, check=True, timeout=300
        ).stdout
        for text in (program, files["model.c"])
    ]
    of_headers, of_export = (text.split() for text in texts)
    assert of_headers == of_export


def test_a_header_is_taken_once_if_it_is_guarded_else_each_time(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "base.h").write_text(
        "/* Base. */\n\n#ifndef BASE_H\n#define BASE_H\n\n#include <stddef.h>\n\nint base;\n\n#endif\n"
    )
    (tmp_path / "deep" / "twice.h").write_text('/* Twice. */\n\n#include "../base.h"\n\nint of_width(N);\n')
    (tmp_path / "deep" / "top.h").write_text(
        "/* Top. */\n\n#ifndef TOP_H\n#define TOP_H\n\n"
        '#include "../base.h"\n\n'
        '#define N 1\n#include "twice.h"\n#undef N\n#define N 2\n#include "twice.h"\n\n#endif\n'
    )
    source = '#include <string.h>\n\n#include "../base.h"\n#include "top.h"\n\nint last;\n'
    assert amalgamated(source, tmp_path / "deep") == (
        "#include <string.h>\n\n"
        "/* Base. */\n\n#include <stddef.h>\n\nint base;\n\n"
        "/* Top. */\n\n"
        "#define N 1\n\n/* Twice. */\n\nint of_width(N);\n\n"
        "#undef N\n#define N 2\n\n/* Twice. */\n\nint of_width(N);\n\n"
        "int last;\n"
    )
