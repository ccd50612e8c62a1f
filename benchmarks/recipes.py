"""Trains our recipe, its float twin and the recipe of the original over several seeds, and writes their accuracies.

    python benchmarks/recipes.py cifar10_jpeg --epochs=30 --seeds=3 --raw-dir=cifar10_jpeg.tar.xz
    python benchmarks/recipes.py fashion_mnist --epochs=30 --depth=20 --minutes=14 --workdir=runs/recipes

The runs of one seed come before those of the next, so that each seed is a comparison. After --minutes the run that is in
progress saves a checkpoint and stops. The same command goes on with it, and skips what is finished. The rows go to
benchmarks/results/recipes_DATASET.json; a row with more seeds replaces the one with fewer.

The checkpoint is chosen by validation, and the test set is used once, at the end of each run. Float epochs count. On a GPU a
ResNet-20 takes about 3 minutes for 200 epochs, so --epochs=100 --seeds=2 fits a quarter of an hour.
"""

import argparse
import pathlib
import signal
import subprocess
import sys
import time

import accuracy
from results import FOLDER, REPO, save
from templates.accuracy import recipes

from qresnet_jax.train.metrics.records import FILE, read_metrics

MAIN = REPO / "main.py"
GRACE = 300  # seconds for a run that was told to stop to save a checkpoint
# Of the original: fixed clipping levels, an absolute threshold, and a rate that falls in steps (configs/cifar10_baseline.py).
ORIGINAL = {
    "model.activation": "fixed",
    "optim.hysteresis.threshold": 0.1,
    "optim.hysteresis.relative": False,
    "optim.name": "sgd",
    "optim.weight_decay": 0.0,
    "optim.float_epochs": 0,
    "optim.schedule": "step",
    "optim.warmup_epochs": 0.0,
}


def variants(dataset: str, epochs: int) -> dict[str, tuple[str, dict[str, object]]]:
    """Returns the config, and the options that differ from it, of each row by its label."""
    common = {
        "num_epochs": epochs,
        "optim.warmup_epochs": min(5.0, epochs / 30),
        "checkpoint_every_epochs": 1,
    }
    return {
        "our recipe": (f"{dataset}_w1a2", common),
        "float twin": (f"{dataset}_fp32", common),
        "recipe of the original": (f"{dataset}_w1a2", {**common, **ORIGINAL}),
    }


def is_finished(workdir: pathlib.Path) -> bool:
    """Returns whether a run has its test accuracy."""
    return any("test_accuracy" in line for line in read_metrics(workdir / FILE))


def train(config: str, options: dict[str, object], workdir: pathlib.Path, seconds: float) -> bool:
    """Begins a run or goes on with it, for a time. Returns whether it is finished.

    Raises:
      SystemExit: the run failed; its message stands above.
    """
    flags = [f"--config.{key}={value}" for key, value in options.items()]
    command = [sys.executable, str(MAIN), f"--config={config}", f"--workdir={workdir}", *flags]
    child = subprocess.Popen(command)
    try:
        status = child.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        child.send_signal(signal.SIGTERM)  # it saves a checkpoint
        child.wait(timeout=GRACE)
        return False
    if status != 0:
        raise SystemExit(f"{workdir} failed with status {status}; its message stands above")
    return is_finished(workdir)


def write_row(dataset: str, label: str, workdirs: list[pathlib.Path], folder: pathlib.Path) -> None:
    """Writes the row of a variant, in place of its row with fewer seeds."""
    name = f"recipes_{dataset}"
    found = accuracy.measurements([str(path) for path in workdirs], label=label)
    ((key, measurement),) = found.items()
    fewer = accuracy.measurements([str(path) for path in workdirs[:-1]], label=label) if workdirs[1:] else {}
    save(name, key, measurement, folder, instead_of=next(iter(fewer), None))
    print(recipes(found))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dataset", choices=("cifar10_jpeg", "fashion_mnist"))
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--raw-dir", help="of cifar10_jpeg: the archive with the images")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="when to stop; default: never")
    parser.add_argument("--workdir", type=pathlib.Path, default=pathlib.Path("runs/recipes"))
    parser.add_argument("--save", type=pathlib.Path, default=FOLDER, help="default: benchmarks/results")
    args = parser.parse_args(arguments)
    if args.dataset == "cifar10_jpeg" and args.raw_dir is None:
        parser.error("cifar10_jpeg needs --raw-dir, the path of cifar10_jpeg.tar.xz")
    end = time.monotonic() + 60 * args.minutes
    for seed in range(args.seeds):
        for label, (config, options) in variants(args.dataset, args.epochs).items():
            options = {**options, "model.depth": args.depth}
            if args.raw_dir:
                options["data.raw_dir"] = args.raw_dir
            workdirs = [
                args.workdir / f"{args.dataset} {args.depth} {args.epochs} {label} {s}".replace(" ", "_")
                for s in range(seed + 1)
            ]
            if is_finished(workdirs[-1]):
                continue
            left = end - time.monotonic()
            seconds = None if left == float("inf") else max(left, 0.0)
            if not train(config, {**options, "seed": seed}, workdirs[-1], seconds):
                print(f"stopped in {workdirs[-1]}: the same command goes on")
                return
            write_row(args.dataset, label, workdirs, args.save)


if __name__ == "__main__":
    main()
