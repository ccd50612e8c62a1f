"""Training time of ResNet-20 on an accelerator: W1A2 against its float twin, and whether a dispatch waits for the host.

    python benchmarks/epochs.py [--batch=128] [--images=50000] [--rounds=5]

Trains on random 32x32x3 images with augmentation, in dispatches of as many steps as `main.py` takes. Epochs of the two
networks take turns; the medians are reported, with the time that 200 epochs take, and the ratio. A trace of one dispatch
then shows how often the device exchanged data with the host while it ran: it must not.
"""

import argparse
import glob
import pathlib
import statistics
import tempfile

import jax
from training import Training

from qresnet_jax import default_config

EPOCHS = default_config().num_epochs


def configuration(quantized: bool, batch: int, dtype: str):
    """The default network, or its float twin."""
    config = default_config()
    config.batch_size, config.dtype = batch, dtype
    if not quantized:
        config.model.weight_bits, config.model.activation = 32, "none"
    return config


def host_transfers(training: Training) -> list[str]:
    """Names of the copies between host and device in a trace of one dispatch."""
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
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default=default_config().dtype)
    args = parser.parse_args()
    device = jax.devices()[0]
    if device.platform == "cpu":
        parser.error("this needs a GPU or TPU, and JAX sees none; for CPUs there is benchmarks/train_step.py")
    print(f"{jax.device_count()} x {device.device_kind}, batch {args.batch}, {args.dtype}", flush=True)
    runs = {
        name: Training(configuration(name == "W1A2", args.batch, args.dtype), args.images)
        for name in ("W1A2", "float")
    }
    for name, training in runs.items():
        print(f"{name:5s} first dispatch, with compilation: {training.run():.1f} s", flush=True)
    times = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, training in runs.items():
            times[name].append(training.epoch())
    for name, seconds in times.items():
        each = statistics.median(seconds)
        print(
            f"{name:5s} median {each:.3f} s an epoch ({min(seconds):.3f} to {max(seconds):.3f}), "
            f"{args.images / each:,.0f} images/s, {EPOCHS} epochs {EPOCHS * each:.0f} s"
        )
    ratios = [a / b for a, b in zip(times["W1A2"], times["float"], strict=True)]
    print(f"W1A2 over float: median {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    copies = host_transfers(runs["W1A2"])
    steps = runs["W1A2"].length
    print(
        f"copies between host and device in a dispatch of {steps} steps: {len(copies)} {sorted(set(copies))}"
    )


if __name__ == "__main__":
    main()
