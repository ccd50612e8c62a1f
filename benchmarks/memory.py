"""Counts the memory of a training step from the compiled program, and measures what `config.remat` costs in time.

    python benchmarks/memory.py sizes [--networks=resnet_20,resnet_50] [--save]
    python benchmarks/memory.py times [--rounds=7] [--save]

`sizes` compiles the step of each network (1-bit weights, 2-bit activations, on one device) for two batch sizes, with each
value of `config.remat`, and runs nothing. An image takes the difference of the two temporary memories by the difference of
the batch sizes; what does not depend on the batch is fixed. ResNet-1202 would compile for an hour: its figures lie on the line
through those of the depths 56 and 110.

`times` runs ResNet-20 with each value of `config.remat` in turns, and reports the ratio to the step that keeps everything.
"""

import argparse
import functools

import jax
from results import add_save_option, save_all, spread
from training import Training, compile_step

from qresnet_jax import default_config
from qresnet_jax.system.machine import processors
from qresnet_jax.train import parallel

NAME = "memory"
REMAT = ("none", "convolutions", "block")
NETWORKS = {  # key -> stem, depth, block
    "resnet_20": ("cifar", 20, "basic"),
    "resnet_110": ("cifar", 110, "basic"),
    "resnet_1202": ("cifar", 1202, "basic"),
    "resnet_18": ("imagenet", 18, "basic"),
    "resnet_50": ("imagenet", 50, "bottleneck"),
}
DEEPEST = 110  # what is deeper is extrapolated,
SHALLOWER = 56  # from this depth and the deepest
SIZES = {"cifar": 32, "imagenet": 224}
BATCHES = {"cifar": (64, 128), "imagenet": (8, 16)}
TIMED = 20, 128  # depth and batch size


def configuration(stem: str, depth: int, block: str, remat: str, batch: int):
    """Returns the config of a network."""
    config = default_config()
    config.remat, config.batch_size = remat, batch
    config.model.stem, config.model.depth, config.model.block = stem, depth, block
    if stem == "imagenet":
        config.model.num_classes, config.model.stem_weight_bits = 1000, 8
        with config.model.ignore_type():
            config.model.act_bits = (2, 2, 2, 2)
    return config


@functools.cache
def count(stem: str, depth: int, block: str, remat: str) -> dict:
    """Returns `image_bytes`, `fixed_bytes` and `image_flops` of a network, from two compiled programs."""
    if depth > DEEPEST:
        near, far = (count(stem, d, block, remat) for d in (SHALLOWER, DEEPEST))
        return extrapolated(near, far, (depth - SHALLOWER) / (DEEPEST - SHALLOWER))
    batches, found = BATCHES[stem], []
    for batch in batches:
        program = compile_step(
            configuration(stem, depth, block, remat, batch), SIZES[stem], jax.devices()[:1]
        )
        found.append((program.memory_analysis(), program.cost_analysis()["flops"]))
    (small, small_flops), (large, large_flops) = found
    more = batches[1] - batches[0]
    image = (large.temp_size_in_bytes - small.temp_size_in_bytes) / more
    # The state goes out in the place where it came in.
    return {
        "image_bytes": image,
        "fixed_bytes": small.temp_size_in_bytes - batches[0] * image + small.alias_size_in_bytes,
        "image_flops": (large_flops - small_flops) / more,
    }


def extrapolated(near: dict, far: dict, distance: float) -> dict:
    """Returns figures on the line through two others, `distance` times as far from `near` as `far` is."""
    return {name: near[name] + distance * (far[name] - near[name]) for name in near}


def sizes(networks) -> dict[str, dict]:
    """Returns the figures of each network, by key."""
    found = {}
    for key in networks:
        stem, depth, block = NETWORKS[key]
        rows = {}
        for remat in REMAT:
            rows[remat] = count(stem, depth, block, remat)
            megabytes, fixed = (rows[remat][name] / 1e6 for name in ("image_bytes", "fixed_bytes"))
            print(f"{key} {remat}: {megabytes:.3f} MB an image and {fixed:.1f} MB", flush=True)
        figures = {
            "what": "sizes",
            "network": f"ResNet-{depth}",
            "size": SIZES[stem],
            "extrapolated": depth > DEEPEST,
            "rows": rows,
        }
        found[key] = figures
    return found


def times(rounds: int) -> dict:
    """Returns the seconds of a step with each value of `config.remat`, and the ratios, round by round."""
    depth, batch = TIMED
    runs = {}
    for remat in REMAT:
        config = configuration("cifar", depth, "basic", remat, batch)
        config.steps_per_dispatch = 1
        runs[remat] = Training(config, batch)
        for _ in range(2):  # compiles, then settles
            runs[remat].run()
    seconds = {remat: [] for remat in REMAT}
    for _ in range(rounds):
        for remat, run in runs.items():
            seconds[remat].append(min(run.run() for _ in range(3)))
    return times_figures(seconds, jax.device_count())


def times_figures(seconds: dict[str, list[float]], devices: int) -> dict:
    """Returns the figures of `times` from the seconds of each round."""
    depth, batch = TIMED
    ratios = {
        remat: spread(a / b for a, b in zip(of_remat, seconds["none"], strict=True))
        for remat, of_remat in seconds.items()
    }
    return {
        "what": "times",
        "network": f"ResNet-{depth}",
        "batch": batch,
        "devices": devices,
        "seconds": {remat: spread(of_remat) for remat, of_remat in seconds.items()},
        "ratio": ratios,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("sizes", "times"))
    parser.add_argument("--networks", default=",".join(NETWORKS), help="of sizes; names with commas between")
    parser.add_argument("--rounds", type=int, default=7, help="of times")
    add_save_option(parser, NAME)
    args = parser.parse_args()
    networks = args.networks.split(",")
    if unknown := set(networks) - set(NETWORKS):
        parser.error(f"no such network: {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    if args.what == "sizes":
        found = sizes(networks)
    else:
        parallel.cores_as_devices(TIMED[1])
        found = {"times": times(args.rounds)}
        for remat, ratio in found["times"]["ratio"].items():
            print(f"{remat:12s} {ratio['median']:.2f} times ({ratio['min']:.2f} to {ratio['max']:.2f})")
    if args.save:
        print("wrote", save_all(NAME, found, processors(), args.save))


if __name__ == "__main__":
    main()
