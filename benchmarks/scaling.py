"""Measures how the training step of ResNet-20 scales over the virtual devices of a CPU, and counts what devices exchange.

    python benchmarks/scaling.py times [--rounds=5] [--save]
    python benchmarks/scaling.py exchange [--save]

`times` runs steps on 1, 2, 4 and 8 virtual devices in turns: strong scaling with 128 images in a batch over all devices,
and weak scaling with 32 images on each. Virtual devices share the cores of the machine. So these times show what it costs
to divide a step, and no speed-up beyond the number of cores.

`exchange` counts the bytes that a device gives to collectives in a step, in the text of the compiled program, beside what
parameters and statistics imply. (Three metrics are added, and XLA exchanges gradients that are equal once.) From these it estimates the time of the collectives on 8, 64 and 1,024 GPUs:

    time of an all-reduce of B bytes on N devices = 2 (N - 1) / N * B / bandwidth + latency

with the bandwidth of the slowest link of the ring, and the latency of a tree: `BASE + 2 * (7 * IN_NODE + log2(nodes) *
BETWEEN_NODES)`. Nothing is assumed to overlap.
"""

import argparse
import math

import jax
from flax import nnx
from results import add_save_option, save_all, spread
from training import SIZE, Training, compile_step

from qresnet_jax import create_model, default_config
from qresnet_jax.system.hlo import collectives
from qresnet_jax.system.machine import processors

NAME = "scaling"
DEVICES = (1, 2, 4, 8)
DEPTH = 20
STRONG, WEAK = 128, 32  # images over all devices, and images on each device

# Of a DGX H100 or H200: NVLink of 900 GB/s in both directions together inside a node of 8, and one port of 400 Gbit/s of
# InfiniBand for each GPU between nodes (NVIDIA's data sheets).
NODE = 8
NVLINK, NETWORK = 450e9, 50e9  # bytes/s in one direction
# NCCL's own model of the latency of a tree with its protocol for short messages (NCCL 2.21, src/graph/tuning.cc).
BASE, IN_NODE, BETWEEN_NODES = 6.8e-6, 0.6e-6, 5.0e-6  # seconds
CHIPS = (8, 64, 1024)


def configuration(depth: int, batch: int, sync_bn: bool = True, stem: str = "cifar"):
    """Returns the config of a network with 1-bit weights and 2-bit activations."""
    config = default_config()
    config.batch_size, config.steps_per_dispatch = batch, 1
    config.model.depth, config.model.sync_bn, config.model.stem = depth, sync_bn, stem
    if stem == "imagenet":
        config.model.num_classes, config.model.stem_weight_bits = 1000, 8
        config.model.block = "bottleneck" if depth == 50 else "basic"
        with config.model.ignore_type():
            config.model.act_bits = (2, 2, 2, 2)
    return config


def times(rounds: int) -> dict:
    """Returns the seconds of a step by kind of scaling and number of devices, measured in turns."""
    batches = {("strong", n): STRONG for n in DEVICES} | {("weak", n): WEAK * n for n in DEVICES}
    runs = {}
    for (kind, n), batch in batches.items():
        same = next((runs[k, m] for k, m in runs if m == n and batches[k, m] == batch), None)
        runs[kind, n] = same or Training(configuration(DEPTH, batch), batch, jax.devices()[:n])
        for _ in range(2):  # compiles, then settles
            runs[kind, n].run()
        print(f"{kind} scaling on {n} devices is ready", flush=True)
    seconds = {key: [] for key in runs}
    for _ in range(rounds):
        for key, run in runs.items():
            seconds[key].append(min(run.run() for _ in range(2)))
    return times_figures(seconds)


def times_figures(seconds: dict[tuple[str, int], list[float]]) -> dict:
    """Returns the figures of `times` from the seconds of each round.

    The efficiency is in images per second, relative to 1 device: as all devices share the same cores, 1 means that it
    costs nothing to divide a step.
    """
    rows = []
    for (kind, n), of_run in seconds.items():
        one = seconds[kind, 1]
        work = n if kind == "weak" else 1
        rows.append(
            {
                "kind": kind,
                "devices": n,
                "batch": WEAK * n if kind == "weak" else STRONG,
                "seconds": spread(of_run),
                "efficiency": spread(work * a / b for a, b in zip(one, of_run, strict=True)),
            }
        )
    return {"what": "times", "network": f"ResNet-{DEPTH}", "size": SIZE, "rows": rows}


def exchange(depth: int, stem: str, size: int, sync_bn: bool) -> dict:
    """Returns what the devices exchange in a step, counted and expected, and the estimates."""
    config = configuration(depth, 2, sync_bn, stem)
    found = collectives(compile_step(config, size, jax.devices()[:2]).as_text())
    counted = [one.nbytes for one in found]
    gradients, statistics = state_bytes(config)
    return {
        "what": "exchange",
        "network": f"ResNet-{depth}",
        "size": size,
        "sync_bn": sync_bn,
        "count": len(counted),
        "bytes": sum(counted),
        "expected": gradients + (2 if sync_bn else 1) * statistics,
        "chips": [{"chips": n, "seconds": estimate(counted, n)} for n in CHIPS],
    }


def state_bytes(config) -> tuple[int, int]:
    """Returns the bytes of a network's parameters, and of its running statistics."""
    model = nnx.eval_shape(lambda: create_model(config.model, rngs=nnx.Rngs(0)))
    _, params, rest = nnx.split(model, nnx.Param, ...)
    return tuple(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) for state in (params, rest))


def estimate(sizes: list[int], chips: int) -> float:
    """Returns the seconds of all-reduces of some sizes in bytes, one after the other, on that many GPUs."""
    nodes = max(1, chips // NODE)
    bandwidth = NVLINK if nodes == 1 else NETWORK
    latency = BASE + 2 * ((min(chips, NODE) - 1) * IN_NODE + math.log2(nodes) * BETWEEN_NODES)
    return sum(2 * (chips - 1) / chips * size / bandwidth + latency for size in sizes)


EXCHANGES = {  # key -> depth, stem, size, sync_bn
    f"{name}_{'sync' if sync_bn else 'alone'}": (depth, stem, size, sync_bn)
    for name, depth, stem, size in (("resnet_20", 20, "cifar", 32), ("resnet_50", 50, "imagenet", 224))
    for sync_bn in (True, False)
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("times", "exchange"))
    parser.add_argument("--rounds", type=int, default=5, help="of times")
    add_save_option(parser, NAME)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", DEVICES[-1])
    found = {}
    if args.what == "times":
        found["times"] = times(args.rounds)
        for row in found["times"]["rows"]:
            print(
                f"{row['kind']:6s} {row['devices']} devices: {row['seconds']['median']:.3f} s a step, "
                f"efficiency {row['efficiency']['median']:.2f}"
            )
    else:
        for key, network in EXCHANGES.items():
            found[key] = exchange(*network)
            print(key, found[key], flush=True)
    if args.save:
        print("wrote", save_all(NAME, found, processors(), args.save))


if __name__ == "__main__":
    main()
