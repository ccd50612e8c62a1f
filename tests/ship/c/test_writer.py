import dataclasses
import errno
import hashlib
import os
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest

from qresnet_jax.errors import ExportError, UserError
from qresnet_jax.ship import reference
from qresnet_jax.ship.c.writer import PROFILES, write_c
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.load import find_packed, zoo
from qresnet_jax.ship.packed.file import read_packed, save_packed
from tests.ship.random_networks import random_network

STRICT = [
    "-std=c99",
    "-Wall",
    "-Wextra",
    "-pedantic",
    "-Wconversion",
    "-Wsign-conversion",
    "-Wshadow",
    "-Werror",
]
# Not optimised, as compiling is what takes long.
SANITIZE = ["-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
FOREIGN = {  # compiler and how its programs run here
    "32 bits": (["gcc", "-m32"], []),
    "clang": (["clang"], []),
    "ARM, 32 bits": (["arm-linux-gnueabihf-gcc", "-static"], ["qemu-arm"]),
    "ARM, 64 bits": (["aarch64-linux-gnu-gcc", "-static"], ["qemu-aarch64"]),
    "s390x, big-endian": (["s390x-linux-gnu-gcc", "-static"], ["qemu-s390x"]),
}
VECTORS = {
    "plain C": ("", []),
    "SSE2": ("sse2", []),
    "AVX2": ("avx2", ["-mavx2", "-O3"]),  # with so much inlining GCC has once warned
    "AVX-512": ("avx512bw avx512vl", ["-mavx512f", "-mavx512bw", "-mavx512vl"]),
}


# Compiling and running.


def compile_and_run(network, size, images, directory, profile, compiler, flags=("-O1",), runner=()):
    """int32 logits that `example.c` prints for the images; compiler and runner are the words of commands."""
    free = {} if network.height else {"height": size[0], "width": size[1]}
    write_c(network, directory, profile=profile, **free)
    command = [*compiler, *STRICT, *flags, "example.c", "model.c", "-o", "example"]
    subprocess.run(command, cwd=directory, check=True, timeout=300)
    done = subprocess.run(
        [*runner, "./example"], cwd=directory, input=images.tobytes(), capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    return np.array([line.split()[: network.classes] for line in done.stdout.decode().splitlines()], np.int64)


def check(network, size, tmp_path, make_images, profile, *compiler, **how):
    images = make_images(3, (*size, network.channels))
    expected = reference.logits(network, images)
    np.testing.assert_array_equal(
        compile_and_run(network, size, images, tmp_path, profile, compiler, **how), expected
    )


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", range(8))
def test_random_networks_are_exact(seed, profile, tmp_path, make_images, compiler):
    check(*random_network(seed, ordinary=seed % 4 == 0), tmp_path, make_images, profile, compiler)


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", range(8, 120))
def test_many_random_networks_are_exact_and_defined(seed, profile, tmp_path, make_images, compiler):
    network = random_network(seed, ordinary=seed % 4 == 0)
    plain = ["-DMODEL_VECTOR=8"] * (profile == "fast" and seed % 4 < 2)
    check(*network, tmp_path, make_images, profile, compiler, flags=[*SANITIZE, *plain])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize(  # they see different things
    "seed, sanitizer", [pytest.param(7, "gcc", marks=pytest.mark.slow), (11, "clang")]
)
def test_nothing_is_undefined_and_no_access_out_of_bounds(
    seed, sanitizer, profile, tmp_path, make_images, compiler
):
    sanitizer = sanitizer if shutil.which(sanitizer) else compiler
    check(*random_network(seed), tmp_path, make_images, profile, sanitizer, flags=SANITIZE)


def zoo_network(name):
    """A network of the zoo and the size of its images."""
    network = read_packed(find_packed(name))
    return network, (network.height, network.width)


def processor_has(features):
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    return set(features.split()) <= set(flags)


@pytest.mark.parametrize(
    "vectors", ["plain C", pytest.param("SSE2", marks=pytest.mark.slow), "AVX2", "AVX-512"]
)
def test_every_kind_of_vector_is_exact(vectors, tmp_path, make_images, compiler):
    features, flags = VECTORS[vectors]
    if not processor_has(features):
        pytest.skip(f"this processor has no {vectors}")
    if vectors == "plain C":
        flags = ["-DMODEL_VECTOR=8"]
    for network, size in (random_network(20, ordinary=True), zoo_network("fashion_mnist_resnet20_w1a2")):
        check(network, size, tmp_path, make_images, "fast", compiler, flags=["-O1", *flags])


@pytest.mark.parametrize(
    "name, profile",
    [(name, "small") for name in zoo()] + [("digits_resnet8_w1a2", "fast")],  # the other one is above
)
def test_zoo_networks_are_exact(name, profile, tmp_path, make_images, compiler):
    check(*zoo_network(name), tmp_path, make_images, profile, compiler)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("machine", FOREIGN)
def test_other_machines_and_compilers_are_exact(machine, profile, tmp_path, make_images):
    foreign, runner = FOREIGN[machine]
    for program in (foreign[0], *runner):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    (tmp_path / "try.c").write_text("#include <stdio.h>\nint main(void) { return 0; }\n")
    tried = subprocess.run([*foreign, "try.c", "-o", "try"], cwd=tmp_path, capture_output=True, timeout=300)
    if tried.returncode != 0:
        pytest.skip(f"{' '.join(foreign)} has no C library here")
    network = random_network(26, ordinary=True)
    check(*network, tmp_path, make_images, profile, *foreign, runner=runner)


def test_trained_networks_are_exact(trained, tmp_path, make_images, compiler):
    """In the profile `small`; the C engine's tests have the same networks in the other one."""
    _, network = trained
    check(network, (network.height, network.width), tmp_path, make_images, "small", compiler)


CALLER = """
#include "tiny.h"
#include <stdio.h>
#include <string.h>
int main(void)
{
    static uint8_t image[TINY_HEIGHT * TINY_WIDTH * TINY_CHANNELS], memory[TINY_BUFFER_BYTES + 130];
    int32_t first[TINY_CLASSES], logits[TINY_CLASSES];
    int shift, fill;
    size_t i;
    for (i = 0; i < sizeof image; i++)
        image[i] = (uint8_t)(i * 89);
    for (shift = 0; shift < 65; shift++)
        for (fill = 0; fill < 2; fill++) {
            memset(memory, fill ? 255 : 0, sizeof memory);
            tiny_logits(image, shift || fill ? logits : first, memory + shift);
            if ((shift || fill) && memcmp(first, logits, sizeof logits))
                return 1;
            for (i = 0; i < sizeof memory; i++)
                if ((i < (size_t)shift || i >= (size_t)shift + TINY_BUFFER_BYTES) && memory[i] != (fill ? 255 : 0))
                    return 2;
        }
    for (i = 0; i < TINY_CLASSES; i++)
        printf("%s\\n", tiny_class_names[i]);
    return 0;
}
"""


@pytest.mark.parametrize("profile", PROFILES)
def test_buffers_of_any_alignment_and_content_will_do_and_names_are_kept(profile, tmp_path, compiler):
    network, size = random_network(8)
    names = ('"\\', "??/ */", "zwölf\n", "", *map(str, range(network.classes)))[: network.classes]
    network = dataclasses.replace(network, height=size[0], width=size[1], class_names=names)
    write_c(network, tmp_path, profile=profile, prefix="tiny")
    (tmp_path / "caller.c").write_text(CALLER)
    command = [compiler, *STRICT, "-Os", "caller.c", "tiny.c", "-o", "caller"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
    done = subprocess.run(["./caller"], cwd=tmp_path, capture_output=True, timeout=300)
    assert (done.returncode, done.stdout.decode()) == (0, "".join(f"{name}\n" for name in names))


# The text.


@pytest.mark.parametrize("profile", PROFILES)
def test_the_same_network_gives_the_same_text_without_floats_and_allocation(profile, tmp_path, trained_named):
    _, network = trained_named("basic pact")
    paths = write_c(network, tmp_path / "a", profile=profile)
    assert [path.name for path in paths] == ["model.h", "model.c", "example.c"]
    for path in paths:
        other = write_c(network, tmp_path / "b", profile=profile)[paths.index(path)]
        assert path.read_bytes() == other.read_bytes()
    source = paths[1].read_text()
    assert re.search(r"\b(float|double|malloc|alloca)\b", source) is None
    assert set(re.findall(r"#include (.*)", source)) <= {
        '"model.h"',
        "<stddef.h>",
        "<stdint.h>",
        "<string.h>",
        "<immintrin.h>",
        "<wasm_simd128.h>",
        "<arm_neon.h>",
    }
    assert len(paths[2].read_text().splitlines()) <= 25
    header = paths[0].read_text()
    for line in ("MODEL_HEIGHT 8", "MODEL_WIDTH 8", "MODEL_CHANNELS 3", "MODEL_CLASSES 5"):
        assert f"#define {line}\n" in header
    assert repr(network.logit_scale) in header


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"prefix": "1net"}, "prefix='1net' must begin with a letter"),
        ({"prefix": "a-b"}, "prefix='a-b' must begin with a letter"),
        ({"prefix": "Example"}, "prefix='Example': example.c is the name of the example program"),
        (
            {"prefix": "string"},
            "prefix='string': string.h is the name of a standard header, which it would hide",
        ),
        ({"height": 9}, "height=9: the network takes images of height 8"),
    ],
)
def test_impossible_wishes_are_refused_and_nothing_is_written(arguments, message, tmp_path, trained_named):
    _, network = trained_named("basic pact")
    with pytest.raises(ExportError, match=message) as error:
        write_c(network, tmp_path / "out", **arguments)
    assert isinstance(error.value, UserError)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="profile must be one of fast, small, got 'tiny'"):
        write_c(network, tmp_path / "out", profile="tiny")


def test_a_network_of_any_size_needs_one(tmp_path, trained_named):
    network = dataclasses.replace(trained_named("basic pact")[1], height=None, width=None)
    with pytest.raises(ExportError, match="images of any width, but C code needs one: give width="):
        write_c(network, tmp_path, height=8)
    write_c(network, tmp_path, height=5, width=7)
    assert "#define MODEL_WIDTH 7\n" in (tmp_path / "model.h").read_text()


def test_sizes_of_which_a_window_leaves_nothing_are_refused(tmp_path, trained_named):
    network = trained_named("basic pact")[1]
    stem = dataclasses.replace(network.stem, window=Window((3, 3)))
    network = dataclasses.replace(network, nodes=(stem, *network.nodes[1:]), height=None, width=None)
    with pytest.raises(ExportError, match="width=2: the network takes images of width 3 to 65535"):
        write_c(network, tmp_path, height=3, width=2)
    write_c(network, tmp_path, height=3, width=3)


@pytest.mark.parametrize("layout", ["pair", "header"])
def test_a_source_file_does_not_compile_with_the_header_of_another_export(
    layout, tmp_path, trained_named, compiler
):
    _, source, _ = write_c(trained_named("basic pact")[1], tmp_path, profile="small")
    compiles = [compiler, "-fsyntax-only", source.name]
    subprocess.run(compiles, cwd=tmp_path, check=True, timeout=300)
    write_c(trained_named("basic lsq imagenet")[1], tmp_path / "other", profile="small", layout=layout)
    (tmp_path / "other" / "model.h").replace(tmp_path / "model.h")
    done = subprocess.run(compiles, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode and "model.h and model.c are of different exports" in done.stderr


def test_all_files_are_replaced_or_none(tmp_path, trained_named, monkeypatch):
    write_c(trained_named("basic pact")[1], tmp_path, profile="small")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    usual, calls = os.fsync, []

    def full_disk(file):
        calls.append(file)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        usual(file)

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(UserError, match="model.c cannot be written .*: make room there"):
        write_c(trained_named("basic lsq imagenet")[1], tmp_path, profile="small")
    monkeypatch.undo()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_exports_with_different_prefixes_live_in_one_directory(
    tmp_path, trained_named, make_images, compiler
):
    """Also where a prefix is the name of another network's example, with an underscore for its dot."""
    networks = {
        "model": trained_named("basic pact")[1],
        "net": trained_named("basic lsq imagenet")[1],
        "net_example": trained_named("basic pact")[1],
    }
    written = {
        prefix: write_c(network, tmp_path, profile="small", prefix=prefix)
        for prefix, network in networks.items()
    }
    names = [path.name for paths in written.values() for path in paths]
    assert len({name.lower() for name in names}) == 9 == len(list(tmp_path.iterdir()))
    assert [path.name for path in written["net"]] == ["net.h", "net.c", "net.example.c"]
    for prefix, network in networks.items():
        _, source, example = written[prefix]
        assert f"cc -O3 {example.name} {source.name} -o example" in example.read_text()
        command = [compiler, *STRICT, "-O1", example.name, source.name, "-o", f"run_{prefix}"]
        subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
        images = make_images(2, network.image_shape)
        done = subprocess.run(
            [tmp_path / f"run_{prefix}"], input=images.tobytes(), capture_output=True, check=True, timeout=300
        )
        logits = [line.split()[: network.classes] for line in done.stdout.decode().splitlines()]
        np.testing.assert_array_equal(np.array(logits, np.int64), reference.logits(network, images))
    with pytest.raises(
        ExportError, match="net.h has the macros of prefix='Net'.*: choose another prefix or directory"
    ):
        write_c(networks["net"], tmp_path, profile="small", prefix="Net")
    write_c(networks["net"], tmp_path, profile="small", prefix="net")  # again


@pytest.mark.parametrize("profile", PROFILES)
def test_a_prefix_leaves_the_names_of_classes_alone(tmp_path, trained_named, profile):
    names = ("model_s", "MODEL_T", "model.h", "a model.c", "model")
    network = dataclasses.replace(trained_named("basic pact")[1], class_names=names)
    header, source, example = (
        p.read_text() for p in write_c(network, tmp_path, profile=profile, prefix="car")
    )
    assert source.endswith(
        "".join(f'    "{name}"{end}' for name, end in zip(names, [",\n"] * 4 + ["};\n"], strict=True))
    )
    assert not re.search(r"\bmodel(_|\.)", header + example, re.IGNORECASE)


def test_the_header_names_the_packed_file_and_the_worth_of_a_logit(tmp_path, trained_named):
    _, network = trained_named("basic pact")
    save_packed(network, tmp_path / "packed")
    header = write_c(network, tmp_path / "c")[0].read_text()
    assert f"SHA-256 {hashlib.sha256((tmp_path / 'packed').read_bytes()).hexdigest()}" in header
    assert float(re.search(r"#define MODEL_LOGIT_SCALE (\S+)", header)[1]) == network.logit_scale


def test_a_name_cannot_end_a_comment(tmp_path, trained_named):
    _, network = trained_named("basic pact")
    renamed = [dataclasses.replace(node, name='*/ int x = "') for node in network.nodes]
    network = dataclasses.replace(network, nodes=tuple(renamed))
    for profile in PROFILES:
        source = write_c(network, tmp_path, profile=profile)[1].read_text()
        assert "/* __ int x = _ */" in source
