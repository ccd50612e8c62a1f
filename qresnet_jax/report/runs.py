"""Reads runs from their workdirs, without JAX, and groups them by the differences between their configs."""

import itertools
import json
import os
import pathlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from qresnet_jax.config import WITHOUT_EFFECT, flatten
from qresnet_jax.errors import UserError
from qresnet_jax.system.files import as_path
from qresnet_jax.train.metrics.records import FILE, IN_FLOAT, read_metrics


class RunRecord(NamedTuple):
    """Holds the config and the metrics of a run."""

    workdir: pathlib.Path
    fields: dict[str, object]  # of the config, by dotted name
    records: list[dict[str, float]]  # the lines of metrics.jsonl
    failure: str = ""  # in a word, why the run will not be completed, such as "diverged"

    @property
    def validation(self) -> list[float]:
        """The validation accuracy after each epoch, also of the float epochs, 0 to 1; [] if nothing was held out."""
        return [record["eval_accuracy"] for record in self.records if "eval_accuracy" in record]

    @property
    def best_validation(self) -> float | None:
        """The best validation accuracy of the network that ships, 0 to 1; None if it was not measured."""
        shipping = (record for record in self.records if IN_FLOAT not in record)
        return max(
            (record["eval_accuracy"] for record in shipping if "eval_accuracy" in record), default=None
        )

    @property
    def test(self) -> float | None:
        """The test accuracy, 0 to 1; None if the run is not complete."""
        return next((r["test_accuracy"] for r in reversed(self.records) if "test_accuracy" in r), None)

    @property
    def signs(self) -> dict[str, float]:
        """How the signs moved, as means over the binary layers; {} for a float network.

        `flips` is how often a weight has flipped so far since it became binary; `dead_band`, `held_back` and
        `never_flipped` are shares of the weights at the end of the run, 0 to 1.
        """
        measured = [record for record in self.records if any(name.startswith("flips/") for name in record)]
        if not measured:
            return {}
        steps = [0, *(record["step"] for record in measured)]
        intervals = [after - before for before, after in itertools.pairwise(steps)]
        flips = (
            n * _over_layers(record, "flips")
            for n, record in zip(intervals, measured, strict=True)
            if IN_FLOAT not in record
        )
        ends = ("dead_band", "held_back", "never_flipped")
        return {"flips": sum(flips)} | {kind: _over_layers(measured[-1], kind) for kind in ends}


def _over_layers(record: Mapping[str, float], kind: str) -> float:
    return statistics.fmean(value for name, value in record.items() if name.startswith(f"{kind}/"))


def read_run(workdir: str | os.PathLike[str]) -> RunRecord:
    """Reads `config.json` and `metrics.jsonl` from the directory of a run.

    Raises:
      UserError: there is no such directory, or it does not belong to a run, or it has no metrics yet.
    """
    workdir = as_path(workdir)
    if not workdir.is_dir():
        raise UserError(f"there is no directory {workdir}: give the workdirs of runs, such as runs/digits")
    try:
        fields = flatten(json.loads((workdir / "config.json").read_text()))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{workdir} is no workdir of a run, as it has no readable config.json ({error}): leave it out"
        ) from error
    records = read_metrics(workdir / FILE)
    if not records:
        raise UserError(
            f"{workdir} has no metrics yet, as {FILE} is missing or empty: leave it out, or train first"
        )
    return RunRecord(workdir, fields, records)


def group(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Groups runs that differ only in the seed. A group's name says how its runs differ from those of other groups.

    Fields in `config.WITHOUT_EFFECT` are ignored.

    Raises:
      UserError: two directories hold the same run.
    """
    names = (name for run in runs for name in run.fields)
    fields = dict.fromkeys(name for name in names if name != "seed" and not name.startswith(WITHOUT_EFFECT))
    _refuse_repeated(runs, fields)
    differing = [name for name in fields if len({_value(run, name) for run in runs}) > 1]
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        settings = [f"{_short(name, differing)}={_value(run, name)}" for name in differing]
        groups.setdefault(", ".join(settings) or "all alike", []).append(run)
    return groups


def _refuse_repeated(runs: Sequence[RunRecord], fields: Collection[str]) -> None:
    """Refuses two runs with the same config and seed: their results are equal, and would make the spread too small."""
    known: dict[tuple[str, ...], pathlib.Path] = {}
    for run in runs:
        key = tuple(_value(run, name) for name in ("seed", *fields))
        if key in known:
            raise UserError(
                f"{known[key]} and {run.workdir} hold the same run, with equal config and seed: leave one of them out"
            )
        known[key] = run.workdir


def _value(run: RunRecord, name: str) -> str:
    """Returns a field's value as it is written on the command line."""
    if name not in run.fields:
        return "not set"
    value = run.fields[name]
    return f"({','.join(map(str, value))})" if isinstance(value, list) else str(value) or "''"


def _short(name: str, names: Sequence[str]) -> str:
    """Returns the last part of a dotted name, or the whole name if another one has the same last part."""
    last = name.split(".")[-1]
    return last if [n.split(".")[-1] for n in names].count(last) == 1 else name
