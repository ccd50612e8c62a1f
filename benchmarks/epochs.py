"""Measures epochs of training ResNet-20 on an accelerator: W1A2 against its float twin.

    python benchmarks/epochs.py [--batch=128] [--dtype=float32] [--images=50000] [--rounds=5] [--save]

Both networks train on random 32x32x3 images with augmentation, with as many steps in a dispatch as the command takes, and
their epochs take turns. The medians are reported, with the time that 200 epochs take, and the ratio. A trace of one
dispatch then shows how often the device exchanged data with the host while it ran, which should be never.
"""

import argparse
import glob
import pathlib
import tempfile

import jax
from results import add_save_option, measured, save, spread
from training import Training

from qresnet_jax import default_config
from qresnet_jax.system.machine import processors

NAME = "epochs"
QUANTIZED, FLOAT = "W1A2", "float"
EPOCHS = default_config().num_epochs


def configuration(quantized: bool, batch: int, dtype: str):
    """Returns the config of the default network, or of its float twin."""
    config = default_config()
    config.batch_size, config.dtype = batch, dtype
    if not quantized:
        config.model.weight_bits, config.model.activation = 32, "none"
    return config


def host_transfers(training: Training) -> list[str]:
    """Returns the names of the copies between host and device in a trace of one dispatch."""
    with tempfile.TemporaryDirectory() as directory:
        with jax.profiler.trace(directory):
            training.run()
        (path,) = glob.glob(f"{directory}/**/*.xplane.pb", recursive=True)
        profile = jax.profiler.ProfileData.from_serialized_xspace(pathlib.Path(path).read_bytes())
    planes = [plane for plane in profile.planes if plane.name.startswith("/device:")]
    assert planes, "the trace has no device"
    names = [event.name for plane in planes for line in plane.lines for event in line.events]
    return [name for name in names if "H2D" in name or "D2H" in name or "host" in name.lower()]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    dtypes, usual = ("float32", "bfloat16"), default_config().dtype
    parser.add_argument("--dtype", choices=dtypes, default=usual, metavar="NAME", help=", ".join(dtypes))
    add_save_option(parser, NAME)
    args = parser.parse_args()
    device = jax.devices()[0]
    if device.platform == "cpu":
        parser.error("this needs a GPU or TPU, but JAX sees none; on a CPU use benchmarks/train_step.py")
    print(f"{jax.device_count()} x {device.device_kind}, batch {args.batch}, {args.dtype}", flush=True)
    runs = {
        name: Training(configuration(name == QUANTIZED, args.batch, args.dtype), args.images)
        for name in (QUANTIZED, FLOAT)
    }
    for name, training in runs.items():
        print(f"{name:5s} first dispatch, with compilation: {training.run():.1f} s", flush=True)
    times = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, training in runs.items():
            times[name].append(training.epoch())
    copies = host_transfers(runs[QUANTIZED])
    figures = figures_of(times, args, runs[QUANTIZED], len(copies))
    for name in runs:
        seconds = figures[name]
        print(
            f"{name:5s} median {seconds['median']:.3f} s an epoch ({seconds['min']:.3f} to {seconds['max']:.3f}), "
            f"{args.images / seconds['median']:,.0f} images/s, {EPOCHS} epochs {EPOCHS * seconds['median']:.0f} s"
        )
    ratio = figures["ratio"]
    print(f"W1A2 over float: median {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f})")
    print(
        f"copies between host and device in a dispatch of {figures['dispatch_steps']} steps: "
        f"{len(copies)} {sorted(set(copies))}"
    )
    if args.save:
        key, gpu = f"batch {args.batch}, {args.dtype}", f"{jax.device_count()} x {device.device_kind}"
        print("wrote", save(NAME, key, measured(figures, cores=processors(), gpu=gpu), args.save))


def figures_of(times: dict[str, list[float]], args, training: Training, copies: int) -> dict:
    """Returns the figures of a measurement, from the seconds of each epoch of both networks."""
    return {
        "batch": args.batch,
        "dtype": args.dtype,
        "images": args.images,
        "epochs": EPOCHS,
        "epoch_steps": training.steps,
        "dispatch_steps": training.length,
        "copies": copies,
        **{name: spread(seconds) for name, seconds in times.items()},
        "ratio": spread(a / b for a, b in zip(times[QUANTIZED], times[FLOAT], strict=True)),
    }


if __name__ == "__main__":
    main()
