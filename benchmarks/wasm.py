"""Measures the export for browsers: bytes of all networks of the zoo and of ResNet-20 W1A2, and times under Node.js.

    python benchmarks/wasm.py sizes [--save]
    python benchmarks/wasm.py times [--rounds=10] [--save]

`sizes` reports the bytes of `model.wasm`, which has both builds, as it is and compressed by gzip, as web servers send it; and
those of the packed file.

`times` measures a call with one image on one thread: of the build with vectors, of the one without, and of the peer, the
same network as C for this machine, compiled by `gcc -O3`, which takes SSE2 on x86-64. They take turns: in each round
Node.js is started for each build, and calls it for a second before its time is taken, as it compiles a module anew
when it has run for a while. The ratios are those of the medians and of the minima.

The ResNet-20 takes images of 32 x 32 x 3 and has random weights, which compress worse than trained ones.
"""

import argparse
import gzip
import json
import pathlib
import shutil
import subprocess
import tempfile
import time

import numpy as np
from c_export import DIGITS, RESNET20, Variant, compiled, repeater
from networks import pixels, random_network
from results import add_save_option, measured, save, spread
from templates import wasm as template

from qresnet_jax.ship import wasm
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.load import find_packed, zoo
from qresnet_jax.ship.packed.file import packed_bytes, read_packed
from qresnet_jax.ship.wasm.build import find_tools
from qresnet_jax.ship.wasm.writer import STATIC, wasm_bytes, write_wasm

NAME = "wasm"
NATIVE, VECTORS, PLAIN = "native C, `gcc -O3`", "WebAssembly with vectors", "WebAssembly without vectors"
FLAGS = "-O3"  # of the peer
SECONDS = 0.003  # of a measurement, about
MEASUREMENTS = 30  # of a round
WARM_UP = 1.0  # seconds

SCRIPT = """
import { readFileSync } from 'node:fs';
import { load } from './model.mjs';
const [simd, warmUp, seconds, measurements] = JSON.parse(process.argv[2]);
const net = await load('model.wasm', { simd });
const image = new Uint8Array(readFileSync('image'));
const now = () => performance.now() / 1000;
const calls = (n) => {
  const start = now();
  for (let i = 0; i < n; i++) net.logits(image);
  return (now() - start) / n;
};
for (const start = now(); now() - start < warmUp; ) calls(10);
const n = Math.max(1, Math.round(seconds / calls(10)));
const times = Array.from({ length: measurements }, () => calls(n));
console.log(JSON.stringify({ times, logits: [...net.logits(image)], simd: net.simd }));
"""


# Sizes.


def sizes(networks):
    """Returns the figures of the files, in bytes."""
    rows = []
    for name, network in networks.items():
        packed, module = packed_bytes(network), wasm_bytes(network)
        row = {"network": name, "packed": len(packed), "wasm": len(module)}
        rows.append(row | {"gzip": len(gzip.compress(module, 9))})
    folder = pathlib.Path(wasm.__file__).parent
    static = {name: len(gzip.compress((folder / name).read_bytes(), 9)) for name in STATIC}
    return {"what": "sizes", "rows": rows, "static_gzip": static, "compiler": tools_version()}


def tools_version():
    """Returns the first line that the compiler says about its version."""
    command = [*find_tools().compiler, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.splitlines()[0]


# Times.


def times(networks, folder, rounds):
    """Returns the figures of both builds and of the peer, for each network."""
    rows = []
    for name, network in networks.items():
        place = folder / name.split(",")[0]
        write_wasm(network, place)
        (place / "model.js").rename(place / "model.mjs")
        (place / "script.mjs").write_text(SCRIPT)
        image = pixels(network, 1)
        (place / "image").write_bytes(image.tobytes())
        library = compiled(Variant(NATIVE, FLAGS, network=name), c_files(network), place / "native")
        run, logits = repeater(library, network)
        found = {NATIVE: [], VECTORS: [], PLAIN: []}
        for _ in range(rounds):
            found[NATIVE] += native(run)
            for title, simd in ((VECTORS, True), (PLAIN, False)):
                of_node = in_node(place, simd)
                assert of_node["simd"] == simd and np.array_equal(of_node["logits"], logits[0])
                found[title] += of_node["times"]
        spreads = {title: spread(values) for title, values in found.items()}
        for title, one in spreads.items():
            ratios = {of: one[of] / spreads[NATIVE][of] for of in ("median", "min")}
            rows.append({"network": name, "code": title, "seconds": one, "ratio": ratios})
    return {"what": "times", "rows": rows, "compiler": tools_version(), "node": node_version()}


def native(run):
    """Returns the seconds of a call in each measurement of a round."""
    start = time.perf_counter()
    run(20)
    repeats = max(1, round(SECONDS / ((time.perf_counter() - start) / 20)))
    measurements = []
    for _ in range(MEASUREMENTS):
        start = time.perf_counter()
        run(repeats)
        measurements.append((time.perf_counter() - start) / repeats)
    return measurements


def in_node(folder, simd):
    """Returns what the script prints: the seconds of each measurement, the logits, and which build it was."""
    options = json.dumps([simd, WARM_UP, SECONDS, MEASUREMENTS])
    command = ["node", "script.mjs", options]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True, timeout=300)
    return json.loads(done.stdout)


def node_version():
    """Returns the version of Node.js, such as 20.20.2."""
    done = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip().removeprefix("v")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sizes", "times"))
    parser.add_argument("--rounds", type=int, default=10)
    add_save_option(parser, NAME)
    args = parser.parse_args()
    if args.what == "times":
        for program in ("node", "gcc"):
            if shutil.which(program) is None:
                parser.error(f"{program} is not installed")
        networks = {DIGITS: read_packed(find_packed("digits_resnet8_w1a2")), RESNET20: random_network()}
        with tempfile.TemporaryDirectory() as name:
            figures = times(networks, pathlib.Path(name), args.rounds)
        render = template.times
    else:
        networks = {f"`{name}`": read_packed(path) for name, path in zoo().items()}
        figures, render = sizes(networks | {RESNET20: random_network()}), template.sizes
    measurement = measured(figures, cores=1)
    print(render({args.what: measurement}))
    if args.save:
        print("wrote", save(NAME, args.what, measurement, args.save))


if __name__ == "__main__":
    main()
