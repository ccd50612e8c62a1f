import dataclasses
import pathlib
import re
import shutil
import subprocess

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.deploy import nodes, numpy_engine
from qresnet_jax.deploy.c_bitplanes import saturation
from qresnet_jax.deploy.c_plan import Step, allocate, plan
from qresnet_jax.deploy.c_writer import PROFILES, write_c
from qresnet_jax.deploy.nodes import IntegerNetwork
from qresnet_jax.errors import ExportError, UserError

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
SANITIZE = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
COMPILER = next((name for name in ("gcc", "clang", "cc") if shutil.which(name)), None)
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
    "AVX2": ("avx2", ["-mavx2"]),
    "AVX-512": ("avx512bw avx512vl", ["-mavx512f", "-mavx512bw", "-mavx512vl"]),
}


# Random networks: everything that `nodes.value_types` accepts.


class Builder:
    """Appends random nodes; positions of nodes are integers."""

    def __init__(self, rng, channels):
        self.rng, self.nodes, self.channels = rng, [], channels

    def add(self, node):
        self.nodes.append(node)
        return len(self.nodes) - 1

    def signs(self, *shape):
        return self.rng.choice(np.array([-1, 1], np.int8), shape)

    def kernel(self):
        sizes = self.rng.choice([1, 3, 3, 3, 5, 7], 2)
        return (sizes[0], sizes[0]) if self.rng.random() < 0.8 else tuple(sizes)

    def stem(self, out):
        kh, kw = self.kernel()
        reach = int(self.rng.choice([3, 100, 2**24 // (511 * kh * kw * self.channels)]))
        reach = min(reach, 2**24 // (511 * kh * kw * self.channels), 32767)
        return self.add(
            nodes.Stem(
                weights=self.rng.integers(-reach, reach + 1, (kh, kw, self.channels, out)).astype(np.int16),
                double_mean=self.rng.integers(0, 511, self.channels).astype(np.int16),
                stride=int(self.rng.integers(1, 3)) if self.rng.random() < 0.5 else 1,
            )
        )

    def conv(self, x, features, out, stride=None, kernel=None):
        kh, kw = kernel or self.kernel()
        stride = stride or int(self.rng.integers(1, 3))
        return self.add(nodes.BinaryConv(inputs=(x,), signs=self.signs(kh, kw, features, out), stride=stride))

    def thresholds(self, x, channels, bound, max_level=2**14):
        bits = int(self.rng.choice([1, 2, 2, 2, 2, 3, 4, 8]))
        n = 2**bits - 1 if self.rng.random() < 0.7 else int(self.rng.integers(1, 2**bits))
        n = min(n, max_level)
        if self.rng.random() < 0.3 and n <= 14 and 2 ** (n - 1) <= max_level:
            levels = [0, *(2**i for i in range(n))]
        elif self.rng.random() < 0.2:
            levels = [0, *sorted(self.rng.choice(np.arange(1, max_level + 1), n, replace=False))]
        else:
            levels = range(n + 1)
        rows = int(self.rng.choice([1, channels]))
        reach = int(self.rng.choice([bound // 8 + 1, bound + 2, 2**31 - 1]))
        t = self.rng.integers(-reach, reach + 1, (rows, n))
        if self.rng.random() < 0.3:
            t[:, 0], t[:, -1] = -(2**31), 2**31 - 1
        return self.add(
            nodes.Thresholds(
                inputs=(x,),
                thresholds=np.sort(t, axis=1).astype(np.int32),
                direction=self.signs(rows),
                levels=np.array(levels, np.int32),
            )
        )

    def requantize(self, x, channels, bound):
        if self.rng.random() < 0.6:  # as from `fold`: 19 bits, the result in the middle of int16
            shift = self.rng.integers(8, 18, channels)
            multiplier = self.rng.integers(-(2**18), 2**18, channels)
            offset = self.rng.integers(-(2**20), 2**20, channels) + 2 ** (shift - 1)
        else:
            shift = self.rng.integers(0, 41, channels)
            multiplier = self.rng.integers(-(2**31), 2**31, channels)
            offset = self.rng.integers(-(2**59), 2**59, channels) >> self.rng.integers(0, 59, channels)
        return self.add(
            nodes.Requantize(
                inputs=(x,),
                multiplier=multiplier.astype(np.int32),
                offset=offset.astype(np.int64),
                shift=shift.astype(np.uint8),
            )
        )


def random_network(seed, ordinary=False):
    """A network of a few random blocks, and the size of its images.

    Args:
      seed: of all choices.
      ordinary: only 3x3 and 1x1 kernels and more channels, as trained networks have.
    """
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 21, 2).tolist()) if rng.random() < 0.7 else (int(rng.integers(21, 80)), 33)
    build = Builder(rng, int(rng.choice([1, 3, 4])))
    most = 40 if ordinary else 11

    def channels():
        return int(rng.integers(1, most))

    if ordinary:
        build.kernel = lambda: (3, 3)
    c = channels()
    stem = build.stem(c)
    stem_bound = 510 * int(np.abs(build.nodes[0].weights.astype(int)).sum((0, 1, 2)).max())
    x = build.requantize(stem, c, stem_bound)
    if rng.random() < 0.1:  # the stem's sums are read twice
        other = build.requantize(stem, c, stem_bound)
        x = build.add(nodes.Add(inputs=(other, x)))
    if rng.random() < 0.7:
        x = build.add(nodes.Relu(inputs=(x,)))
    if rng.random() < 0.3:
        x = build.add(nodes.MaxPool(inputs=(x,)))
    for _ in range(int(rng.integers(1, 4))):
        x, c = random_block(build, rng, x, c, channels)
    if rng.random() < 0.3:
        x = build.add(nodes.Relu(inputs=(build.requantize(x, c, 2**15),)))
    x = build.add(nodes.MeanPool(inputs=(x,)))
    classes = int(rng.integers(1, 12))
    reach = min(2**30 // (2**15 * c), 32767)
    build.add(
        nodes.Classifier(
            inputs=(x,),
            weights=rng.integers(-reach, reach + 1, (c, classes)).astype(np.int16),
            bias=rng.integers(-(2**29), 2**29, classes).astype(np.int32),
        )
    )
    free = rng.random() < 0.2
    height, width = (None, None) if free else size
    network = IntegerNetwork(tuple(build.nodes), 8, 0.5, height=height, width=width)
    return network, size


def random_block(build, rng, x, c, channels):
    """One or two convolutions beside a shortcut, which is what it can be; its position and channels."""
    out = c if rng.random() < 0.5 else channels()
    stride = 2 if rng.random() < 0.3 else 1
    first = build.thresholds(x, c, 2**15)
    y, features = first, c
    for last in (False, True):
        if not last and rng.random() < 0.3:
            continue
        conv_out = out if last else channels()
        top = int(build.nodes[y].levels[-1])
        kernel = build.kernel()
        acc = build.conv(y, features, conv_out, stride if last else 1, kernel)
        bound = top * kernel[0] * kernel[1] * features
        features = conv_out
        if not last:
            y = build.thresholds(acc, conv_out, bound, min(2**14, 2**24 // (50 * 2 * conv_out)))
            if rng.random() < 0.1:
                build.requantize(acc, conv_out, bound)  # nobody reads it
    y = build.requantize(acc, out, bound)
    if stride == 1 and out == c:
        shortcut = x
    else:
        acc = build.conv(first, c, out, stride, (1, 1))
        shortcut = build.requantize(acc, out, bound)
    if rng.random() < 0.2:
        return y, out
    x = build.add(nodes.Add(inputs=(y, shortcut) if rng.random() < 0.7 else (shortcut, y)))
    if rng.random() < 0.6:
        x = build.add(nodes.Relu(inputs=(x,)))
    return x, out


# Compiling and running.


def compile_and_run(network, size, images, directory, profile, compiler=(), flags=("-O1",), runner=()):
    """int32 logits that `example.c` prints for the images."""
    if not compiler and COMPILER is None:
        pytest.skip("there is no C compiler (gcc, clang, cc)")
    free = {} if network.height else {"height": size[0], "width": size[1]}
    write_c(network, directory, profile=profile, **free)
    command = [*(compiler or [COMPILER]), *STRICT, *flags, "example.c", "model.c", "-o", "example"]
    subprocess.run(command, cwd=directory, check=True)
    done = subprocess.run([*runner, "./example"], cwd=directory, input=images.tobytes(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return np.array([line.split()[: network.classes] for line in done.stdout.decode().splitlines()], np.int64)


def check(network, size, tmp_path, make_images, profile, **how):
    images = make_images(3, (*size, network.channels))
    expected = numpy_engine.logits(network, images)
    np.testing.assert_array_equal(compile_and_run(network, size, images, tmp_path, profile, **how), expected)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", range(8))
def test_random_networks_are_exact(seed, profile, tmp_path, make_images):
    check(*random_network(seed, ordinary=seed % 2 == 0), tmp_path, make_images, profile)


@pytest.mark.slow
@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", range(8, 120))
def test_many_random_networks_are_exact_and_defined(seed, profile, tmp_path, make_images):
    network = random_network(seed, ordinary=seed % 2 == 0)
    check(*network, tmp_path, make_images, profile, flags=SANITIZE)


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("seed", [2, 3])
def test_nothing_is_undefined_and_no_access_out_of_bounds(seed, profile, tmp_path, make_images):
    network = random_network(seed, ordinary=seed % 2 == 0)
    check(*network, tmp_path, make_images, profile, flags=SANITIZE)


def processor_has(features):
    try:
        flags = pathlib.Path("/proc/cpuinfo").read_text().split()
    except OSError:
        flags = []
    return set(features.split()) <= set(flags)


@pytest.mark.parametrize("vectors", VECTORS)
def test_every_kind_of_vector_is_exact(vectors, tmp_path, make_images, trained_named):
    features, flags = VECTORS[vectors]
    if not processor_has(features):
        pytest.skip(f"this processor has no {vectors}")
    if vectors == "plain C":
        flags = ["-DMODEL_VECTOR=8"]
    check(*random_network(20, ordinary=True), tmp_path, make_images, "fast", flags=["-O1", *flags])
    _, network = trained_named("resnet20")
    check(network, (32, 32), tmp_path, make_images, "fast", flags=["-O2", *flags])


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("machine", FOREIGN)
def test_other_machines_and_compilers_are_exact(machine, profile, tmp_path, make_images):
    compiler, runner = FOREIGN[machine]
    for program in (compiler[0], *runner):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    (tmp_path / "try.c").write_text("#include <stdio.h>\nint main(void) { return 0; }\n")
    tried = subprocess.run([*compiler, "try.c", "-o", "try"], cwd=tmp_path, capture_output=True)
    if tried.returncode != 0:
        pytest.skip(f"{' '.join(compiler)} has no C library here")
    network = random_network(26, ordinary=True)
    check(*network, tmp_path, make_images, profile, compiler=compiler, runner=runner)


def test_trained_networks_are_exact(trained, tmp_path, make_images):
    """In the profile `small`; the C engine's tests have the same networks in the other one."""
    _, network = trained
    check(network, (network.height, network.width), tmp_path, make_images, "small")


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
def test_buffers_of_any_alignment_and_content_will_do_and_names_are_kept(profile, tmp_path):
    if COMPILER is None:
        pytest.skip("there is no C compiler (gcc, clang, cc)")
    network, size = random_network(8)
    names = ('"\\', "??/ */", "zwölf\n", "", *map(str, range(network.classes)))[: network.classes]
    network = dataclasses.replace(network, height=size[0], width=size[1], class_names=names)
    write_c(network, tmp_path, profile=profile, prefix="tiny")
    (tmp_path / "caller.c").write_text(CALLER)
    command = [COMPILER, *STRICT, "-O1", "caller.c", "tiny.c", "-o", "caller"]
    subprocess.run(command, cwd=tmp_path, check=True)
    done = subprocess.run(["./caller"], cwd=tmp_path, capture_output=True)
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
        "<string.h>",
        "<immintrin.h>",
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
    with pytest.raises(ExportError, match="images of any width, C code only one: give width="):
        write_c(network, tmp_path, height=8)
    write_c(network, tmp_path, height=5, width=7)
    assert "#define MODEL_WIDTH 7\n" in (tmp_path / "model.h").read_text()


def test_all_files_are_replaced_or_none(tmp_path, trained_named, monkeypatch):
    write_c(trained_named("basic pact")[1], tmp_path, profile="small")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write_text = pathlib.Path.write_text

    def full_disk(self, text, **how):
        if "model.c" in self.name:
            raise OSError("no space left on device")
        return write_text(self, text, **how)

    monkeypatch.setattr(pathlib.Path, "write_text", full_disk)
    with pytest.raises(OSError, match="no space"):
        write_c(trained_named("basic lsq imagenet")[1], tmp_path, profile="small")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_name_cannot_end_a_comment(tmp_path, trained_named):
    _, network = trained_named("basic pact")
    renamed = [dataclasses.replace(node, name='*/ int x = "') for node in network.nodes]
    network = dataclasses.replace(network, nodes=tuple(renamed))
    for profile in PROFILES:
        source = write_c(network, tmp_path, profile=profile)[1].read_text()
        assert "/* __ int x = _ */" in source


# The plan.


def test_a_block_is_three_loops(trained_named):
    _, network = trained_named("resnet20")
    steps = plan(network, 32, 32).steps
    # Stem, 9 blocks of quantizer, two convolutions, two of them with a projection, mean, classifier.
    assert len(steps) == 1 + 9 * 3 + 2 + 2
    assert steps[0].relu and steps[0].addend is None
    assert steps[3].relu and steps[3].addend == steps[0].result


def test_steps_are_every_node_once(trained):
    _, network = trained
    size = (network.height, network.width)
    results = [step.result for step in plan(network, *size).steps]
    assert results == sorted(results) and results[-1] == len(network.nodes) - 1
    assert len(set(results)) == len(results)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_no_two_results_in_use_at_once_overlap(seed, n):
    rng = np.random.default_rng(seed)
    steps = [Step(result=0, source=-1, last=nodes.MaxPool())]
    for t in range(1, n + 1):
        last = [None, nodes.MaxPool()][rng.integers(2)]
        addend = int(rng.integers(t)) if last is None and rng.random() < 0.5 else None
        steps.append(Step(result=t, source=int(rng.integers(t)), last=last, addend=addend))
    sizes = {t: int(rng.choice([0, 8, 8, 24])) for t in range(n + 1)}
    scratch = rng.integers(0, 50, n + 1).tolist()
    memory = allocate(steps, sizes, scratch, 4)
    content = np.full(memory.nbytes, -1)
    for t, step in enumerate(steps):
        at = memory.offsets[t]
        assert at % 4 == 0 and memory.scratch[t] % 4 == 0
        content[memory.scratch[t] : memory.scratch[t] + scratch[t]] = -2
        for x in step.operands:
            assert np.all(content[memory.offsets[x] : memory.offsets[x] + sizes[x]] == x)
        # Written over an operand is only what is read at the same place.
        for x in step.operands:
            if (
                sizes[x]
                and sizes[t]
                and at < memory.offsets[x] + sizes[x]
                and memory.offsets[x] < at + sizes[t]
            ):
                assert at == memory.offsets[x] and sizes[x] == sizes[t] and step.last is None
        content[at : at + sizes[t]] = t
        assert np.all(content[memory.scratch[t] : memory.scratch[t] + scratch[t]] == -2)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.integers(-(2**31), 2**31 - 1), st.integers(-(2**60) + 1, 2**60 - 1), st.integers(0, 40), st.data())
def test_limits_change_nothing_and_fit_in_32_bits(m, c, k, data):
    m = m if abs(m) >> k < 2**29 else m >> 3
    if data.draw(st.booleans()):
        c = c % (2**k * 2**17) - 2**k * 2**16
    bound = data.draw(st.integers(1, 2**24 - 1))
    by, offset, low, high, zero = saturation(m, c, k, bound)
    near = [low + d for d in (-2, -1, 0, 1)] + [high + d for d in (-1, 0, 1, 2)] + [0, -bound, bound]
    near.append(data.draw(st.integers(-bound, bound)))
    assert all(-(2**31) <= x < 2**31 for x in (by, low, high, zero)) and 0 <= offset < 2**64 and low <= high
    for x in (x for x in near if -bound <= x <= bound):
        inside = min(max(x, low), high)
        start = inside - low if by >= 0 else high - inside
        product = start * abs(by) + offset
        assert 0 <= start < 2**32 and product < 2**64 and product >> k < 2**31
        result = min(max((product >> k) - zero, -32768), 32767)
        assert result == min(max((x * m + c) >> k, -32768), 32767)
