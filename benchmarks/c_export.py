"""The C export of ResNet-20 W1A2 and of the digits network: the tables of docs/c_export.md, and where the time goes.

    pip install -e ".[bench]" && python benchmarks/c_export.py sizes
    python benchmarks/c_export.py times [--rounds=100]
    python benchmarks/c_export.py calls [--only=AVX-512] [--rounds=100]

`sizes`: of the object files of the compilers that are installed, `.text` by `size`, which has the constants too; and the
most stack that `model_logits` takes, by GCC's `-fcallgraph-info=su`.

`times`: of a call with one image on one thread. The variants and onnxruntime on the float twin take turns, each for some
milliseconds; the ratios are those of the medians and of the least times. The thread's time on the processor counts, so that
other processes matter little.

`calls`: of what one variant's function calls, profile `fast`, measured in a copy of the code that reads a clock after each.

The ResNet-20 takes images of 32 x 32 x 3 and has random weights; the digits network is that of the zoo.
"""

import argparse
import ctypes
import dataclasses
import os
import pathlib
import re
import shlex
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict

import numpy as np
from inference import as_float, onnx_float_network, pixels, random_network

from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed

PEER = "onnxruntime, float32"
RESNET20, DIGITS = "ResNet-20, 32x32x3", "digits, depth 8, 8x8x1"
SECONDS = 0.003  # of one variant in a round, about
TARGETS = {  # columns of the table of sizes
    "Cortex-M4, `-Os`": "arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -Os",
    "Cortex-M0, `-Os`": "arm-none-eabi-gcc -mcpu=cortex-m0 -mthumb -Os",
    "x86-64, `-O3 -march=native`": "gcc -O3 -march=native",
}


@dataclasses.dataclass(frozen=True)
class Variant:
    """One way to compile the code of a profile."""

    code: str
    flags: str
    compiler: str = "gcc"
    profile: str = "fast"
    network: str = RESNET20

    @property
    def name(self) -> str:
        """All of it."""
        return f"{self.network}, {self.code}, {self.command}"

    @property
    def command(self) -> str:
        """Compiler and flags."""
        return f"{self.compiler} {self.flags}"


VARIANTS = (
    Variant("`fast`, AVX-512", "-O3 -march=native"),
    Variant("`fast`, AVX-512", "-O3 -march=native", "clang"),
    Variant("`fast`, AVX2", "-O3 -mavx2"),
    Variant("`fast`, SSE2", "-O3"),
    Variant("`fast`, plain C", "-O3 -DMODEL_VECTOR=8"),
    Variant("`fast`, plain C", "-O3 -DMODEL_VECTOR=8 -mavx2"),
    Variant("`fast`, plain C", "-O3 -DMODEL_VECTOR=8 -march=native"),
    Variant("`fast`, plain C", "-Os -DMODEL_VECTOR=8"),
    Variant("`small`", "-O2", profile="small"),
    Variant("`fast`, AVX-512", "-O3 -march=native", network=DIGITS),
    Variant("`fast`, plain C", "-O3 -DMODEL_VECTOR=8", network=DIGITS),
    Variant("`small`", "-O2", profile="small", network=DIGITS),
)


def table(*rows):
    """Markdown; the first row is the head."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="ascii")


# Sizes.


def print_sizes(networks, folder):
    """Of the object files, of the constants and of the buffer."""
    targets = {name: command for name, command in TARGETS.items() if shutil.which(command.split()[0])}
    rows = [("Network", "Profile", "Constants", *targets, "Buffer", "Stack")]
    for network, profile in ((network, profile) for network in networks for profile in ("small", "fast")):
        files = c_files(networks[network], profile=profile)
        write(folder / network / profile, files)
        text, stack = zip(
            *(text_and_stack(command, folder / network / profile) for command in targets.values()),
            strict=True,
        )
        constants, buffer = map(
            int, re.search(r"Constants: (\d+) .* memory: (\d+)", files["model.h"]).groups()
        )
        rows.append((network, f"`{profile}`", *map(kilobytes, (constants, *text, buffer, max(stack)))))
    print(table(*rows))


def text_and_stack(command, folder):
    """Bytes of `.text` of what a compiler makes of `model.c`, and of the stack that it takes."""
    options = ["-std=c99", "-fcallgraph-info=su", "-c", "model.c"]
    subprocess.run([*command.split(), *options], cwd=folder, check=True)
    size = subprocess.run(["size", "model.o"], cwd=folder, check=True, capture_output=True, text=True).stdout
    return int(size.splitlines()[1].split()[0]), stack_bytes((folder / "model.ci").read_text())


def stack_bytes(graph):
    """Of the deepest chain of calls from `model_logits` on, in GCC's graph of calls."""
    frames = {
        name: int(size)
        for name, size in re.findall(r'node: { title: "(\S+)" label: ".*?(\d+) bytes \(static', graph)
    }
    calls = defaultdict(list)
    for caller, called in re.findall(r'edge: { sourcename: "(\S+)" targetname: "(\S+)"', graph):
        calls[caller].append(called)

    def deepest(name):
        return frames.get(name, 0) + max(map(deepest, calls[name]), default=0)

    return deepest("model_logits")


def kilobytes(nbytes):
    return f"{float(f'{nbytes / 1e3:.3g}'):g} KB"


# Times.

REPEAT = """
#include "model.h"
#include <stddef.h>
size_t model_buffer_bytes = MODEL_BUFFER_BYTES;
void model_repeat(size_t n, const uint8_t *image, int32_t *logits, void *buffer);
void model_repeat(size_t n, const uint8_t *image, int32_t *logits, void *buffer)
{
    for (; n; n--)
        model_logits(image, logits, buffer);
}
"""


def compiled(variant, files, folder):
    """The shared library of a variant."""
    write(folder, {**files, "repeat.c": REPEAT})
    command = [*shlex.split(variant.command), "-std=gnu99", "-shared", "-fPIC"]
    subprocess.run([*command, "model.c", "repeat.c", "-o", "model.so"], cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "model.so"))


def repeater(library, network):
    """A function that classifies an image n times, and the logits that it writes, int32 `[classes]`."""
    size = ctypes.c_size_t.in_dll(library, "model_buffer_bytes").value
    image, logits = pixels(network, 1), np.empty(network.classes, np.int32)
    buffer = np.empty(size, np.uint8)
    run, arrays = library.model_repeat, (image, logits, buffer)
    run.argtypes, run.restype = [ctypes.c_size_t, *[ctypes.c_void_p] * 3], None
    return lambda n: run(n, *(x.ctypes.data for x in arrays)), logits


def peer(network):
    """The same of onnxruntime with the float twin."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    model = onnx_float_network(network).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    images = {"images": as_float(pixels(network, 1))}

    def run(n):
        for _ in range(n):
            session.run(None, images)

    return run


def seconds(run, n):
    """Of the processor for one of n calls, after one that is not counted."""
    run(1)
    start = time.thread_time()
    run(n)
    return (time.thread_time() - start) / n


def alternating(runs, rounds):
    """Seconds of a call, a list for each of the runs, which take turns."""
    repeats = {key: max(1, round(SECONDS / max(seconds(run, 3), 1e-7))) for key, run in runs.items()}
    times = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(seconds(run, repeats[key]))
    return times


def print_times(networks, variants, folder, rounds):
    """A row for each variant, with the peer's time of the same rounds."""
    for network in networks:
        chosen = {
            str(i): variant
            for i, variant in enumerate(variants)
            if variant.network == network and shutil.which(variant.compiler)
        }
        runs = {PEER: peer(networks[network])}
        for i, variant in chosen.items():
            library = compiled(variant, c_files(networks[network], profile=variant.profile), folder / i)
            runs[i], _ = repeater(library, networks[network])
        times = alternating(runs, rounds)
        middle = {key: statistics.median(x) for key, x in times.items()}
        rows = [(network, "Flags", "Median", "Least", "onnxruntime's / this", "of the least")]
        for key in runs:
            least = min(times[key])
            ratios = [f"{ratio:.2g}" for ratio in (middle[PEER] / middle[key], min(times[PEER]) / least)]
            code, flags = (PEER, "") if key == PEER else (chosen[key].code, f"`{chosen[key].command}`")
            rows.append((code, flags, microseconds(middle[key]), microseconds(least), *ratios))
        print(table(*rows), flush=True)


def microseconds(t):
    return f"{t * 1e6:.0f} us" if t < 1e-3 else f"{t * 1e3:.1f} ms"


# Where the time goes.

CLOCK = """
#include <time.h>
uint64_t model_nanoseconds[MODEL_COUNT];
static uint64_t model_last;
static void model_clock(unsigned k)
{
    struct timespec now;
    uint64_t t;
    clock_gettime(CLOCK_MONOTONIC, &now);
    t = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    if (k)
        model_nanoseconds[k - 1] += t - model_last;
    model_last = t;
}
"""


def with_clocks(source):
    """C code of the profile `fast` that adds up the time of each call in `model_logits`, and of each node and function."""
    head, body = re.split(r"(?=^void model_logits)", source, flags=re.MULTILINE)
    name, calls, lines = "", [], []
    for line in body.splitlines():
        comment, call = (
            re.fullmatch(r"    /\* (.*) \*/", line),
            re.match(r"    model_([a-z_]*[a-z](?:_\d+)?)\w*\(", line),
        )
        name = comment[1] if comment else name
        if call:
            calls.append((name, call[1]))
            line = f"{line} model_clock({len(calls)}u);"
        if "base =" in line:
            line += " model_clock(0u);"
        lines.append(line)
    clock = CLOCK.replace("MODEL_COUNT", str(len(calls)))
    return "\n".join(["#define _POSIX_C_SOURCE 199309L", head, clock, *lines, ""]), calls


def print_calls(networks, variant, folder, rounds):
    """Of one variant, medians: of each call, and of all calls of a function."""
    network = networks[variant.network]
    files = c_files(network, profile=variant.profile)
    files["model.c"], calls = with_clocks(files["model.c"])
    library = compiled(variant, files, folder)
    run, _ = repeater(library, network)
    repeats = max(1, round(SECONDS / max(seconds(run, 3), 1e-7)))
    times = []
    for _ in range(rounds):
        clocks = (ctypes.c_uint64 * len(calls)).in_dll(library, "model_nanoseconds")
        ctypes.memset(clocks, 0, ctypes.sizeof(clocks))
        run(repeats)
        times.append([t / repeats / 1e3 for t in clocks])
    middle = np.median(times, axis=0)
    sums = defaultdict(list)
    for (_, function), t in zip(calls, middle, strict=True):
        sums[function].append(t)
    print(f"{variant.name}: {sum(middle):.1f} us")
    rows = [(name, f"`{function}`", f"{t:.2f}") for (name, function), t in zip(calls, middle, strict=True)]
    print(table(("Node", "Call", "us"), *rows))
    rows = [(f"`{f}`", len(x), f"{sum(x):.1f}") for f, x in sorted(sums.items(), key=lambda s: -sum(s[1]))]
    print(table(("Call", "Number", "us"), *rows))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sizes", "times", "calls"))
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument(
        "--only",
        default="",
        help="part of the name of the variants: " + "; ".join(variant.name for variant in VARIANTS),
    )
    args = parser.parse_args()
    variants = [variant for variant in VARIANTS if args.only in variant.name]
    if not any(variant.profile == "fast" or args.what != "calls" for variant in variants):
        raise SystemExit(f"--only={args.only}: none that can be measured has that in its name")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    networks = {DIGITS: read_packed(find_packed("digits_resnet8_w1a2")), RESNET20: random_network()}
    with tempfile.TemporaryDirectory() as folder:
        if args.what == "sizes":
            print_sizes(networks, pathlib.Path(folder))
        elif args.what == "times":
            print_times(networks, variants, pathlib.Path(folder), args.rounds)
        else:
            fast = next(variant for variant in variants if variant.profile == "fast")
            print_calls(networks, fast, pathlib.Path(folder), args.rounds)


if __name__ == "__main__":
    main()
