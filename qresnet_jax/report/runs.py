"""Runs read from their workdirs, without JAX, and grouped by what differs between their configs."""

import itertools
import json
import os
import pathlib
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from qresnet_jax.config import WITHOUT_EFFECT, flatten
from qresnet_jax.errors import UserError
from qresnet_jax.train.records import FILE, read_metrics


class RunRecord(NamedTuple):
    """A workdir's content."""

    workdir: pathlib.Path
    fields: dict[str, object]  # of the config, by dotted name
    records: list[dict[str, float]]

    @property
    def validation(self) -> list[float]:
        """Accuracy after each epoch, 0 to 1; [] where nothing was held out."""
        return [record["eval_accuracy"] for record in self.records if "eval_accuracy" in record]

    @property
    def test(self) -> float | None:
        """Test accuracy, 0 to 1; None while the run is not complete."""
        return next((r["test_accuracy"] for r in reversed(self.records) if "test_accuracy" in r), None)

    @property
    def signs(self) -> dict[str, float]:
        """How the signs moved, as means over the binary layers; {} for a float network.

        `flips`: of a weight in the whole run so far. `dead_band`, `held_back`, `never_flipped`: share of the weights at
        the end, 0 to 1.
        """
        measured = [record for record in self.records if any(name.startswith("flips/") for name in record)]
        if not measured:
            return {}
        steps = [0, *(record["step"] for record in measured)]
        intervals = [after - before for before, after in itertools.pairwise(steps)]
        flips = (n * _over_layers(record, "flips") for n, record in zip(intervals, measured, strict=True))
        ends = ("dead_band", "held_back", "never_flipped")
        return {"flips": sum(flips)} | {kind: _over_layers(measured[-1], kind) for kind in ends}


def _over_layers(record: Mapping[str, float], kind: str) -> float:
    return statistics.fmean(value for name, value in record.items() if name.startswith(f"{kind}/"))


def read_run(workdir: str | os.PathLike[str]) -> RunRecord:
    """Reads `config.json` and `metrics.jsonl`.

    Raises:
      UserError: there is no such directory, or it is not that of a run.
    """
    workdir = pathlib.Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"there is no directory {workdir}: give the workdirs of runs, such as runs/digits")
    try:
        fields = flatten(json.loads((workdir / "config.json").read_text()))
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{workdir} is no workdir of a run: it has no readable config.json ({error})"
        ) from error
    records = read_metrics(workdir / FILE)
    if not records:
        raise UserError(
            f"{workdir} has no metrics yet: {FILE} is missing or empty. Leave it out, or train first"
        )
    return RunRecord(workdir, fields, records)


def group(runs: Sequence[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs that differ in the seed only, by a name that says how they differ from the others.

    Raises:
      UserError: a run is there twice.
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
    """The same config and seed give the same result: two such runs say nothing of the spread."""
    known: dict[tuple[str, ...], pathlib.Path] = {}
    for run in runs:
        key = tuple(_value(run, name) for name in ("seed", *fields))
        if key in known:
            raise UserError(
                f"{known[key]} and {run.workdir} hold the same run, of the same config and seed: leave one of them out"
            )
        known[key] = run.workdir


def _value(run: RunRecord, name: str) -> str:
    """As it is written on the command line."""
    if name not in run.fields:
        return "not set"
    value = run.fields[name]
    return f"({','.join(map(str, value))})" if isinstance(value, list) else str(value) or "''"


def _short(name: str, names: Sequence[str]) -> str:
    """The last part of a dotted name, where no other has the same."""
    last = name.split(".")[-1]
    return last if [n.split(".")[-1] for n in names].count(last) == 1 else name
