"""Measures inference on a CPU: our engines against onnxruntime on the same network in float and int8.

    pip install -e ".[bench]" && python benchmarks/inference.py [--rounds=15] [--rest=0.2] [--save]
    python benchmarks/inference.py [--threads=1] [--packed=FILE]        # only one network and number of threads

It measures a ResNet-20 W1A2 with random weights and every network of the zoo, on one thread and on all cores. With `--packed`
or `--threads` it measures one network, by default the ResNet-20, with one number of threads, by default 1.

The peer is the float twin of `networks.py`. It gets float images, our engines get uint8 pixels. The engines take turns,
each in a process of its own on the same processors. Before its turn an engine rests, since the threads of the one before it
spin for a while after a call, and then makes calls for a tenth of a second that do not count. The ratio of a round is the
peer's time over the engine's; the median over the rounds is reported.

Two limits of the machine are measured as well. `sgemm` is the time that the network's multiplications would take at the
speed of NumPy's large float32 matrix product. `popcount` is the time that its binary multiplications would take as AND,
population count and addition in registers, one bit of the activations after the other. An engine that works in another
way, such as the bit-sliced C code, may be faster than both.

Two figures describe the memory. `process` is the peak of the whole process, including imports and compilation. `call` is
how far the calls raise the memory above what the loaded engine holds.
"""

import argparse
import ctypes
import importlib
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
from children import answer
from networks import FLOAT32 as PEER
from networks import INT8, ONNX_FILES, as_float, pixels, random_network, write_networks
from results import add_save_option, measured, save, spread

from qresnet_jax.system.machine import processors

NAME = "inference"
OURS = {"numpy": "reference", "jax": "jax.engine", "c": "c.engine"}
LIMITS = "limits"
MIB = 2**20
WARM_UP = 0.1  # seconds of calls that do not count, after a rest


# One engine, in a process of its own.


def load(which, folder, threads, batch):
    """Returns a function that classifies one batch."""
    from qresnet_jax.ship.packed.file import read_packed

    network = read_packed(folder / "network.safetensors")
    images = pixels(network, batch)
    if which in OURS:
        logits = importlib.import_module(f"qresnet_jax.ship.{OURS[which]}").logits
        logits(network, images)  # compiles
        time.sleep(0.2)  # until its threads have given memory back
        ctypes.CDLL(None).malloc_trim(0)
        return lambda: logits(network, images)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    session = onnxruntime.InferenceSession(
        folder / ONNX_FILES[which], options, providers=["CPUExecutionProvider"]
    )
    images = as_float(images)
    return lambda: session.run(None, {"images": images})


def resident(field):
    """Returns this process's memory, `VmRSS`, or its peak, `VmHWM`, in bytes."""
    status = pathlib.Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


def serve(which, folder, threads, batch):
    """Prints the seconds of a call for each line on stdin, and at the end the peak memory and what the calls add."""
    run = load(which, folder, threads, batch)
    peak, loaded = resident("VmHWM"), resident("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    repeats = max(1, round(0.05 / min(seconds(run) for _ in range(5))))
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        while time.perf_counter() < start + WARM_UP:  # until its threads are spread over the cores again
            run()
        print(statistics.median(seconds(run) for _ in range(repeats)), flush=True)
    called = resident("VmHWM")
    print(max(peak, called), called - loaded, flush=True)


def seconds(run):
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


# The limits of the machine.


def multiplications(network):
    """Counts the multiplications for one image: all of them, and the binary ones times the bits of their levels."""
    from qresnet_jax.ship import nodes, reference

    values = reference.node_values(network, pixels(network, 1))
    total = binary = 0
    for i, node in enumerate(network.nodes):
        if isinstance(node, nodes.StemNode | nodes.BinaryConvNode):
            kernel = node.weights if isinstance(node, nodes.StemNode) else node.signs
            count = values[i].size * kernel[..., 0].size
            total += count
            if isinstance(node, nodes.BinaryConvNode):
                binary += count * network.values[node.inputs[0]].bound.bit_length()
    return total, binary


def sgemm_rate():
    """Measures how many float32 multiplications with additions NumPy's matrix product does in a second."""
    a = np.random.default_rng(0).normal(size=(512, 512)).astype(np.float32)
    return 512**3 / min(seconds(lambda: a @ a) for _ in range(100))


def popcount_rate():
    """Measures how many bits AND, population count and addition process in a second, on words in registers."""
    import jax
    import jax.numpy as jnp

    words, terms, repeats = 2**13, 128, 4
    masks = np.random.default_rng(0).integers(0, 2**16, terms).astype(np.uint16)

    @jax.jit
    def count(x):
        def body(_, x):
            return x + sum(jax.lax.population_count(x & mask) for mask in masks)

        return jax.lax.fori_loop(0, repeats, body, x)

    x = jnp.arange(words, dtype=jnp.uint16)
    count(x).block_until_ready()
    return (
        16 * words * terms * repeats / min(seconds(lambda: count(x).block_until_ready()) for _ in range(100))
    )


def print_limits(folder):
    """Prints both limits as JSON, in seconds. It needs a process of its own: BLAS counts its threads at the start."""
    from qresnet_jax.ship.packed.file import read_packed

    total, binary = multiplications(read_packed(folder / "network.safetensors"))
    limits = {"sgemm": total / sgemm_rate(), "popcount": binary / popcount_rate()}
    print(json.dumps({"multiplications": total} | limits))


# The comparison.


def command(threads, folder):
    """Returns the command of a child process, without the option that says what it measures."""
    return [sys.executable, __file__, f"--threads={threads}", f"--folder={folder}"]


def measure_limits(threads, folder):
    """Measures the limits of this machine in a child process, and prints and returns them."""
    done = subprocess.run(
        [*command(threads, folder), f"--serve={LIMITS}"], check=True, stdout=subprocess.PIPE, timeout=600
    )
    limits = json.loads(done.stdout)
    print(
        f"{limits['multiplications'] / 1e6:.1f} M multiplications an image; limits on {threads} thread(s): "
        f"sgemm {limits['sgemm'] * 1e6:.0f} us, popcount {limits['popcount'] * 1e6:.0f} us an image"
    )
    return limits


def compare(engines, folder, batch, threads, rounds, rest):
    """Measures all engines at one batch size, with `rest` seconds before each turn; prints and returns a row for each."""
    children = {
        which: subprocess.Popen(
            [*command(threads, folder), f"--batch={batch}", f"--serve={which}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for which in engines
    }
    for which, child in children.items():
        if answer(child) != "ready\n":
            for other in children.values():
                other.kill()
            raise SystemExit(f"the engine {which} failed to start; its message stands above")
    times = {which: [] for which in engines}
    for _ in range(rounds):
        for which, child in children.items():
            time.sleep(rest)
            child.stdin.write("go\n")
            child.stdin.flush()
            times[which].append(float(answer(child)))
    rows = []
    for which, child in children.items():
        child.stdin.close()
        peak, call = map(int, answer(child).split())
        child.wait(timeout=60)
        rows.append(row(which, batch, times[which], times[PEER], peak, call))
        print(as_line(rows[-1]), flush=True)
    return rows


def row(engine, batch, times, peer_times, process_bytes, call_bytes):
    """Returns the figures of one engine at one batch size; `seconds` are those of a call with the whole batch."""
    return {
        "engine": engine,
        "batch": batch,
        "seconds": spread(times),
        "ratio": spread(peer / own for peer, own in zip(peer_times, times, strict=True)),
        "process_bytes": process_bytes,
        "call_bytes": call_bytes,
    }


def as_line(row):
    """Returns a row as a line for the console."""
    median, ratio, batch = row["seconds"]["median"], row["ratio"], row["batch"]
    return (
        f"{batch:5d}  {row['engine']:17s} {median * 1e3:9.3f} {median / batch * 1e6:9.0f} {ratio['median']:7.2f} "
        f"({ratio['min']:5.2f} to {ratio['max']:5.2f}) {row['process_bytes'] / MIB:8.0f} {row['call_bytes'] / MIB:6.1f}"
    )


def available_engines():
    """Returns the engines that are installed, and prints which are not."""
    engines = [PEER, INT8]
    for which, module in OURS.items():
        if importlib.util.find_spec(f"qresnet_jax.ship.{module}"):
            engines.append(which)
        else:
            print(f"the engine {which} is not measured: there is no qresnet_jax.ship.{module}")
    return engines


def cases(packed, threads):
    """Returns what to measure: for each network, which is a packed file or "" for the random one, the numbers of threads."""
    from qresnet_jax.ship.load import zoo

    if packed or threads:
        return {packed: [threads or 1]}
    return {name: sorted({1, processors()}) for name in ("", *zoo())}


def measure(network, name, threads, folder, engines, args):
    """Measures one network with a number of threads; prints the figures, and saves them if `--save` is given."""
    # XLA and BLAS use as many threads as there are processors.
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(everywhere)[-threads:])
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(threads)
    try:
        print(f"{name}, {threads} thread(s)")
        limits = measure_limits(threads, folder)
        print(
            "batch  engine            ms a call  us image  faster than onnxruntime fp32  MiB process   call"
        )
        rows = [
            row
            for batch in args.batches.split(",")
            for row in compare(engines, folder, int(batch), threads, args.rounds, args.rest)
        ]
    finally:
        os.sched_setaffinity(0, everywhere)
    if args.save:
        figures = {"network": name, "threads": threads, "limits": limits, "rows": rows}
        key = f"{name}, {threads} thread{'s' * (threads > 1)}"
        print("wrote", save(NAME, key, measured(figures, cores=threads), args.save))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--rest", type=float, default=0.2, help="seconds before each engine's turn")
    parser.add_argument("--threads", type=int, help="the number of threads")
    parser.add_argument("--packed", default="", help="a packed file or a name from the zoo")
    parser.add_argument("--batches", default="1,16,128", help="images in a call")
    add_save_option(parser, NAME)
    for hidden, kind in (("--serve", str), ("--folder", pathlib.Path), ("--batch", int)):
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve == LIMITS:
        return print_limits(args.folder)
    if args.serve:
        return serve(args.serve, args.folder, args.threads, args.batch)
    os.environ["JAX_PLATFORMS"] = "cpu"
    from qresnet_jax.ship.load import find_packed
    from qresnet_jax.ship.packed.file import read_packed

    engines = available_engines()
    for packed, numbers in cases(args.packed, args.threads).items():
        network = read_packed(find_packed(packed)) if packed else random_network()
        if network.height is None or network.width is None:
            raise SystemExit(f"{packed} takes images of any size: give a file with a height and a width")
        name = f"{pathlib.Path(packed).stem or 'ResNet-20 W1A2'}, {shape(network)}"
        with tempfile.TemporaryDirectory() as folder:
            write_networks(network, pathlib.Path(folder))
            for threads in numbers:
                measure(network, name, threads, folder, engines, args)


def shape(network):
    """Returns height, width and channels of the images, such as 32x32x3."""
    return "x".join(map(str, (network.height, network.width, network.channels)))


if __name__ == "__main__":
    main()
