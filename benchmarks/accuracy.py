"""Writes accuracies of finished runs into a result file.

    python benchmarks/accuracy.py NAME DIR DIR ... [--label=TEXT] [--save=DIR] [--machine=TEXT] [--commit=HASH]

NAME is accuracy_digits, accuracy_fashion_mnist, hysteresis, hysteresis_cifar10_jpeg, hysteresis_fashion_mnist,
recipes_cifar10_jpeg or recipes_fashion_mnist, and DIR the workdir of a run. A row of recipes has a label, which says in words what its recipe is.
Runs that differ only in the seed become one row, with mean, sample standard deviation and the worst seed. A row with the
same settings and seeds is replaced. Other rows stay; delete them from the file by hand if they are outdated.

A workdir does not say everything. The command is the config in configs/ that is closest to the run's config.json, with what
differs from it as options. The date is that of the last line of train.log. The code is taken to be the last commit before
the first line of train.log, and the machine to be this one; use --commit and --machine if that is wrong.
"""

import argparse
import pathlib
import re
import statistics
import subprocess
import sys

from results import FOLDER, REPO, ResultError, record, save, this_machine, this_versions
from templates.accuracy import accuracies, recipes

from qresnet_jax import config as configs
from qresnet_jax.errors import UserError
from qresnet_jax.report.runs import RunRecord, group, read_run
from qresnet_jax.system.config_files import load_config, shipped_configs
from qresnet_jax.system.machine import processors

RECIPES = ("recipes_cifar10_jpeg", "recipes_fashion_mnist")
NAMES = (
    *("accuracy_digits", "accuracy_fashion_mnist"),
    *("hysteresis", "hysteresis_cifar10_jpeg", "hysteresis_fashion_mnist"),
    *RECIPES,
)
# Fields that name another run, wherever it lay on that machine.
RUNS = ("init_from", "optim.distillation.teacher")
STAMP = re.compile(r"^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d) ", re.MULTILINE)


def statistics_of(values: list[float]) -> dict | None:
    """Returns mean, sample standard deviation (None for one value), minimum and all values; None without values."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": deviation, "worst": min(values), "each": values}


def training_seconds(run: RunRecord) -> float:
    """Returns how long the steps of a run took, without validation and interruptions."""
    batch, seconds, last = run.fields["batch_size"], 0.0, 0
    for line in run.records:
        if rate := line.get("images_per_second"):
            seconds += batch * (line["step"] - last) / rate
            last = line["step"]
    return seconds


def row(runs: list[RunRecord]) -> dict:
    """Returns the figures of runs that differ only in the seed.

    Raises:
      UserError: if a run is not finished.
    """
    for run in runs:
        if run.test is None:
            raise UserError(
                f"{run.workdir} is not finished, because it has no test accuracy: continue the run, or leave it out"
            )
    runs = sorted(runs, key=lambda run: run.fields["seed"])
    fields = runs[0].fields
    signs = [run.signs for run in runs]
    return {
        "network": network_name(fields),
        "layers": fields["model.depth"],
        "seconds": statistics.fmean(map(training_seconds, runs)),
        "epochs": fields["num_epochs"],
        "threshold": fields["optim.hysteresis.threshold"],
        "relative": fields["optim.hysteresis.relative"],
        "seeds": [run.fields["seed"] for run in runs],
        "validation": statistics_of([run.best_validation for run in runs if run.best_validation is not None]),
        "test": statistics_of([run.test for run in runs]),
        "signs": {kind: statistics.fmean(s[kind] for s in signs) for kind in signs[0]}
        if all(signs)
        else None,
    }


def network_name(fields: dict) -> str:
    """Returns W1A2, or "float", or, with other bits in each stage, W1A2/2/4; 32 bits stand for float."""
    bits = (32,) if fields["model.activation"] == "none" else fields["model.act_bits"]
    shown = "/".join(map(str, dict.fromkeys(bits) if len(set(bits)) == 1 else bits))
    name = f"W{fields['model.weight_bits']}A{shown}"
    return "float" if name == "W32A32" else name


def command(fields: dict, shipped: dict[str, dict]) -> str:
    """Returns the command of a run without its seed: the closest config with the same data, and what differs from it.

    Args:
      fields: fields of the run's config, by dotted name.
      shipped: fields of each config in configs/, by the name of its file.
    """

    def differing(name):
        known = shipped[name]
        return [key for key, value in fields.items() if _plain(known.get(key)) != _plain(value)]

    relevant = {key for key in fields if key != "seed" and not key.startswith(configs.WITHOUT_EFFECT)}

    def distance(name):
        has_other_data = shipped[name]["data.name"] != fields["data.name"]
        return has_other_data, len(relevant.intersection(differing(name)))

    closest = min(shipped, key=distance)
    shown = fields | {key: f"runs/{pathlib.Path(fields[key]).name}" for key in RUNS if fields.get(key)}
    options = (f"--config.{key}={_as_option(shown[key])}" for key in differing(closest) if key in relevant)
    return " ".join([f"qresnet --config={closest}", *options])


def _plain(value):
    return list(value) if isinstance(value, tuple | list) else value


def _as_option(value):
    return '"(' + ",".join(map(str, value)) + ')"' if isinstance(value, list) else str(value)


def times(workdir: pathlib.Path) -> tuple[str, str]:
    """Returns when a run began, to the second, and the day on which it ended.

    Raises:
      UserError: if there is no train.log with times.
    """
    log = workdir / "train.log"
    stamps = STAMP.findall(log.read_text()) if log.exists() else []
    if not stamps:
        raise UserError(f"{log} is missing or has no times: was {workdir} copied as a whole?")
    return " ".join(stamps[0]), stamps[-1][0]


def commit_at(moment: str) -> str | None:
    """Returns the last commit of this branch before a moment, or None outside a git checkout."""
    git = ("git", "-C", str(REPO), "rev-list", "-1", f"--before={moment}", "HEAD")
    try:
        return (
            subprocess.run(git, capture_output=True, text=True, check=True, timeout=60).stdout.strip() or None
        )
    except (OSError, subprocess.SubprocessError):
        return None


def measurements(
    workdirs: list[str], machine: str | None = None, commit: str | None = None, label: str | None = None
) -> dict[str, dict]:
    """Returns a measurement for each group of runs, by a key that names its command, or its label, and its seeds.

    Raises:
      UserError: if a folder is not the workdir of a run, if a run is not finished, or if a workdir is given twice.
    """
    found = {}
    shipped = {name: configs.flatten(load_config(name)) for name in shipped_configs()}
    where = this_machine(processors())
    if machine:
        where = {"cpu": machine, "cores": None, "memory_gib": None, "gpu": None, "os": None}
    for runs in group([read_run(workdir) for workdir in workdirs]).values():
        figures, line = row(runs), command(runs[0].fields, shipped)
        name = line
        if label:
            figures["label"] = label
            name = f"ResNet-{figures['layers']} {figures['network']}, {figures['epochs']} epochs: {label}"
        began, ended = zip(*(times(run.workdir) for run in runs), strict=True)
        measurement = record(
            figures,
            command=[line],
            machine=where,
            versions=this_versions(),
            date=max(ended),
            commit=commit or commit_at(min(began)),
            dirty=None,  # this is not known afterwards
        )
        found[f"{name}, seeds {', '.join(map(str, figures['seeds']))}"] = measurement
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("workdirs", nargs="+", metavar="DIR", help="workdir of a finished run")
    parser.add_argument(
        "--save", type=pathlib.Path, default=FOLDER, metavar="DIR", help="default: benchmarks/results"
    )
    parser.add_argument(
        "--label", help="what the recipe is, in words; for the files of recipes, which need it"
    )
    parser.add_argument(
        "--machine", help="the machine in words, if it was not this one, such as 'NVIDIA H200'"
    )
    parser.add_argument(
        "--commit",
        help="the commit of the code that trained, if it was not the last one before the training",
    )
    args = parser.parse_args(arguments)
    if (args.name in RECIPES) != bool(args.label):
        parser.error("the files of recipes need a --label, and the others have none")
    try:
        found = measurements(args.workdirs, args.machine, args.commit, args.label)
        print(recipes(found) if args.label else accuracies(found))
        for key, measurement in found.items():
            path = save(args.name, key, measurement, args.save)
    except (UserError, ResultError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("wrote", path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
