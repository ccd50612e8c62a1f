"""Measures the C export of ResNet-20 W1A2 and of the digits network: sizes, times, and where the time goes.

    pip install -e ".[bench]" && python benchmarks/c_export.py sizes [--save]
    python benchmarks/c_export.py times [--rounds=100] [--save]
    python benchmarks/c_export.py calls [--only=AVX-512] [--many] [--rounds=100] [--save]

`sizes` compiles the code with the compilers that are installed. It reports the section `.text`, which holds the constants
as well, as `size` prints it; and the most stack that `model_logits` takes, by GCC's `-fcallgraph-info=su`.

`times` measures a call with one image on one thread. The variants of the code and onnxruntime, which runs the float twin,
take turns, each for some milliseconds; the ratios are those of the medians and of the minima. Only the time that the thread
spends on the processor counts, so that other processes matter little.

`calls` measures each function that `model_logits` calls, in a copy of the code that reads a clock after each call. It does
so for the first variant of the profile `fast` whose name contains `--only`; with `--many`, for the function that the C engine
calls with eight images, of which it reports the time of one.

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
import subprocess
import tempfile
import time
from collections import defaultdict

import numpy as np
from networks import as_float, onnx_float_network, pixels, random_network
from results import add_save_option, measured, save, spread
from templates import c_code
from templates.cells import duration, markdown

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.fast.bitplanes import lists_of
from qresnet_jax.ship.c.fast.layout import Layout
from qresnet_jax.ship.c.fast.stack import IMAGES, stack
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed

NAME = "c_export"
PEER = "onnxruntime, float32"
RESNET20, DIGITS = "ResNet-20, 32x32x3", "digits, depth 8, 8x8x1"
SECONDS = 0.003  # how long one variant runs in a round, about
TARGETS = (  # columns of the table of sizes, if the compiler is installed
    "arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb -Os",
    "arm-none-eabi-gcc -mcpu=cortex-m0 -mthumb -Os",
    "gcc -O3 -march=native",
)
PARTS = {  # what a call in `model_logits` belongs to, by its name; the first match counts
    "copy": "moves between one image and eight",
    "stem": "stem",
    "quantize": "quantizers of the stream",
    "spread|phases": "copies of bit planes for the taps",
    "many": "convolutions by full adders, eight images at once",
    "table": "convolutions of 8x8 pixels, by tables",
    "levels|stream": "convolutions by full adders",
    "": "pooling and classifier",
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
        """Returns network, code, compiler and flags."""
        return f"{self.network}, {self.code}, {self.command}"

    @property
    def command(self) -> str:
        """Returns the compiler and its flags."""
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


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="ascii")


# Sizes.


def sizes(networks, folder):
    """Returns the figures of the object files, of the constants and of the buffer, in bytes."""
    targets = [command for command in TARGETS if shutil.which(command.split()[0])]
    rows = []
    for network, profile in ((network, profile) for network in networks for profile in ("small", "fast")):
        files = c_files(networks[network], profile=profile)
        write(folder / network / profile, files)
        found = {target: text_and_stack(target, folder / network / profile) for target in targets}
        constants, buffer = map(
            int, re.search(r"Constants: (\d+) .* memory: (\d+)", files["model.h"]).groups()
        )
        row = {"network": network, "profile": profile, "constants": constants, "buffer": buffer}
        row["text"] = {target: text for target, (text, _) in found.items()}
        rows.append(row | {"stack": max(stack for _, stack in found.values())})
    return {"what": "sizes", "rows": rows}


def text_and_stack(command, folder):
    """Compiles `model.c`, and returns the bytes of `.text` and of the stack that the code needs."""
    options = ["-std=c99", "-fcallgraph-info=su", "-c", "model.c"]
    subprocess.run([*command.split(), *options], cwd=folder, check=True, timeout=600)
    size = subprocess.run(
        ["size", "model.o"], cwd=folder, check=True, capture_output=True, text=True, timeout=600
    ).stdout
    return int(size.splitlines()[1].split()[0]), stack_bytes((folder / "model.ci").read_text())


def stack_bytes(graph):
    """Returns the bytes of stack of the deepest chain of calls from `model_logits` on, in GCC's graph of calls."""
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


# Times.

REPEAT = """
#include "model.h"
#include <stddef.h>
size_t model_buffer_bytes = MODEL_BUFFER_BYTES;
#ifdef MODEL_MANY
size_t model_images = MODEL_MANY;
#define MODEL_CALL(images, logits, buffer) model_logits_many(images, MODEL_MANY, logits, buffer)
#else
size_t model_images = 1;
#define MODEL_CALL model_logits
#endif
void model_repeat(size_t n, const uint8_t *images, int32_t *logits, void *buffer);
void model_repeat(size_t n, const uint8_t *images, int32_t *logits, void *buffer)
{
    for (; n; n--)
        MODEL_CALL(images, logits, buffer);
}
"""


def compiled(variant, files, folder):
    """Compiles a variant, and returns its shared library."""
    write(folder, {**files, "repeat.c": REPEAT})
    command = [*shlex.split(variant.command), "-std=gnu99", "-shared", "-fPIC"]
    subprocess.run([*command, "model.c", "repeat.c", "-o", "model.so"], cwd=folder, check=True, timeout=600)
    return ctypes.CDLL(str(folder / "model.so"))


def repeater(library, network):
    """Returns a function that calls the library n times, and the logits that it writes, int32 `[images, classes]`."""
    size, count = (ctypes.c_size_t.in_dll(library, f"model_{x}").value for x in ("buffer_bytes", "images"))
    images, logits = pixels(network, count), np.empty((count, network.classes), np.int32)
    buffer = np.empty(size, np.uint8)
    run, arrays = library.model_repeat, (images, logits, buffer)
    run.argtypes, run.restype = [ctypes.c_size_t, *[ctypes.c_void_p] * 3], None
    return lambda n: run(n, *(x.ctypes.data for x in arrays)), logits


def peer(network):
    """Returns a function that runs onnxruntime n times on the float twin with one image."""
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
    """Returns the processor time of one of n calls in seconds, after a call that is not counted."""
    run(1)
    start = time.thread_time()
    run(n)
    return (time.thread_time() - start) / n


def alternating(runs, rounds):
    """Measures runs that take turns, and returns the seconds of a call in each round, in a list for each run."""
    repeats = {key: max(1, round(SECONDS / max(seconds(run, 3), 1e-7))) for key, run in runs.items()}
    times = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            times[key].append(seconds(run, repeats[key]))
    return times


def times(networks, variants, folder, rounds):
    """Returns the figures of each variant of each network, with those of the peer in the same rounds."""
    rows = []
    for network in networks:
        chosen = {
            str(i): variant
            for i, variant in enumerate(variants)
            if variant.network == network and shutil.which(variant.compiler)
        }
        if not chosen:
            continue
        runs = {PEER: peer(networks[network])}
        for i, variant in chosen.items():
            library = compiled(variant, c_files(networks[network], profile=variant.profile), folder / i)
            runs[i], _ = repeater(library, networks[network])
        found = {key: spread(values) for key, values in alternating(runs, rounds).items()}
        for key, one in found.items():
            code, flags = (PEER, "") if key == PEER else (chosen[key].code, chosen[key].command)
            ratios = {name: found[PEER][name] / one[name] for name in ("median", "min")}
            rows.append({"network": network, "code": code, "command": flags, "seconds": one, "ratio": ratios})
    return {"what": "times", "rows": rows}


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
    """Returns C code of the profile `fast` that adds up the time of each call for one image, or for several if it can.

    Returns:
      The code, and the node and the function of each call.
    """
    head, body = re.split(
        r"(?=^(?:void model_logits\(|static void model_before))", source, maxsplit=1, flags=re.MULTILINE
    )
    name, calls, lines = "", [], []
    for line in body.splitlines():
        comment, call = (
            re.fullmatch(r"    /\* (.*) \*/", line),
            re.match(r" +model_(?!before|after|many)([a-z_]*[a-z](?:_\d+)?)\w*\(", line),
        )
        name = comment[1] if comment else name
        if call:
            calls.append((name, call[1] + " many" * ("_many" in line)))
            line = f"{line} model_clock({len(calls)}u);"
        if "base =" in line:
            line += " model_clock(0u);"
        lines.append(line)
    clock = CLOCK.replace("MODEL_COUNT", str(len(calls)))
    return "\n".join(["#define _POSIX_C_SOURCE 199309L", head, clock, *lines, ""]), calls


def full_adders(network):
    """Counts the full adders of 64 bytes that the convolutions take for one of eight images, one for each tap of a list."""
    steps = plan(network, network.height, network.width)
    together = stack(steps)
    layouts = [(Layout(steps), 1), (Layout(together.plan, together.inputs, together.outputs, IMAGES), IMAGES)]
    total = 0
    for t, step in enumerate(steps.steps):
        if isinstance(step.conv, nodes.BinaryConvNode) and not steps.is_dense(step):
            layout, images = layouts[together.first <= t < together.end]
            taps = layout.taps(step)
            lists = lists_of(step, taps.offsets(), share=taps.planes <= 2).lists
            total += sum(map(len, lists)) * taps.planes * layout.plane(step.result) / (64 * images)
    return total


def calls(networks, variant, folder, rounds, many=False):
    """Returns the figures of one variant: the median seconds of each call for an image, and the share of each part."""
    network = networks[variant.network]
    files = c_files(network, profile=variant.profile, many=many)
    files["model.c"], found = with_clocks(files["model.c"])
    library = compiled(variant, files, folder)
    run, logits = repeater(library, network)
    repeats = max(1, round(SECONDS / max(seconds(run, 3), 1e-7)))
    times = []
    for _ in range(rounds):
        clocks = (ctypes.c_uint64 * len(found)).in_dll(library, "model_nanoseconds")
        ctypes.memset(clocks, 0, ctypes.sizeof(clocks))
        run(repeats)
        times.append([t / repeats / len(logits) / 1e9 for t in clocks])
    middle = np.median(times, axis=0).tolist()
    rows = [
        {"node": node, "function": function, "seconds": t}
        for (node, function), t in zip(found, middle, strict=True)
        if t > 0  # not of the other function
    ]
    return {
        "what": "calls",
        "network": variant.network,
        "code": variant.code,
        "command": variant.command,
        "images": len(logits),
        "full_adders": full_adders(network) if len(logits) > 1 else None,
        "seconds": sum(middle),
        "rounds": rounds,
        "parts": shares(rows),
        "calls": rows,
    }


def shares(rows):
    """Returns the share of the time, 0 to 1, of each part that has calls, the largest first."""
    sums = defaultdict(float)
    for row in rows:
        part = next(part for pattern, part in PARTS.items() if re.search(pattern, row["function"]))
        sums[part] += row["seconds"]
    total = sum(sums.values())
    return {part: t / total for part, t in sorted(sums.items(), key=lambda item: -item[1])}


def print_calls(figures):
    """Prints each call, and the sum of all calls of a function."""
    print(
        f"{figures['network']}, {figures['code']}, {figures['command']}: {duration(figures['seconds'])} in all"
    )
    rows = [(row["node"], f"`{row['function']}`", f"{row['seconds'] * 1e6:.2f}") for row in figures["calls"]]
    print(markdown(("Node", "Call", "µs"), *rows))
    sums = defaultdict(list)
    for row in figures["calls"]:
        sums[row["function"]].append(row["seconds"] * 1e6)
    rows = [(f"`{f}`", len(x), f"{sum(x):.1f}") for f, x in sorted(sums.items(), key=lambda s: -sum(s[1]))]
    print(markdown(("Call", "Number", "µs"), *rows))


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
    parser.add_argument("--many", action="store_true")
    add_save_option(parser, NAME)
    args = parser.parse_args()
    variants = [variant for variant in VARIANTS if args.only in variant.name]
    fast = [variant for variant in variants if variant.profile == "fast"]
    if not (fast if args.what == "calls" else variants):
        parser.error(f"--only={args.only}: no variant that can be measured has that in its name")
    if args.what == "times" and args.only and args.save:
        parser.error("--save replaces the whole table of times: leave --only out")
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    networks = {DIGITS: read_packed(find_packed("digits_resnet8_w1a2")), RESNET20: random_network()}
    with tempfile.TemporaryDirectory() as name:
        folder, key = pathlib.Path(name), args.what
        if args.what == "sizes":
            figures, render = sizes(networks, folder), c_code.sizes
        elif args.what == "times":
            figures, render = times(networks, variants, folder, args.rounds), c_code.times
        else:
            figures, render = calls(networks, fast[0], folder, args.rounds, args.many), c_code.calls
            print_calls(figures)
            key = f"calls, {fast[0].name}" + ", many" * args.many
    measurement = measured(figures, cores=1)
    print(render({key: measurement}))
    if args.save:
        print("wrote", save(NAME, key, measurement, args.save))


if __name__ == "__main__":
    main()
