"""Keeps the list of a sweep's members in `sweep.json`, and compares what they have reached. Without JAX.

Everything about a member but its failure is read from its own directory, so that the comparison is always that of the runs.
"""

import json
import pathlib
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.commands.sweep.plan import Member
from qresnet_jax.errors import UserError
from qresnet_jax.report.compare import files, tests, validations
from qresnet_jax.report.runs import RunRecord, group
from qresnet_jax.system.files import write_all
from qresnet_jax.train.metrics.records import FILE as METRICS_FILE
from qresnet_jax.train.metrics.records import read_metrics

FILE = "sweep.json"
_VERSION = 1
# Fields of the data on which the validation images depend, so that accuracies of different ones are not comparable.
_OF_THE_IMAGES = ("data.name", "data.holdout", "data.image_size", "data.skip_broken")


class Entry(NamedTuple):
    """A member as `sweep.json` keeps it."""

    name: str
    settings: dict[str, Any]
    failure: str = ""  # "diverged", "failed", or ""
    error: str = ""  # its message


class Sweep:
    """The members of a sweep, of this call and of earlier ones in the same directory.

    Args:
      directory: of the sweep; it must exist.
      base: the config that all members have in common.
      members: those of this call, from `plan`. A member that an earlier call planned keeps its directory.

    Raises:
      UserError: the directory holds a run, or a sweep of another config, or its `sweep.json` cannot be read.
    """

    def __init__(self, directory: pathlib.Path, base: ConfigDict, members: Sequence[Member]) -> None:
        self.directory = directory
        if any((directory / name).exists() for name in ("config.json", "checkpoints")):
            raise UserError(f"{directory} is the workdir of a run: give another --workdir for the sweep")
        now = plain(base)
        saved = _read(directory / FILE) or {"base": now, "members": []}
        entries = [Entry(**{name: m[name] for name in Entry._fields}) for m in saved["members"]]
        self.base: dict[str, Any] = saved["base"]
        self._refuse_another_base(now, entries, members)
        varied = sorted(_varied(entries, members))

        def key(settings: Mapping[str, Any], base: Mapping[str, Any]) -> str:
            return json.dumps([settings.get(name, base.get(name)) for name in varied])

        self.entries = {entry.name: entry for entry in entries}
        known = {key(entry.settings, self.base): entry.name for entry in entries}
        self.members: list[Member] = []  # those of this call, by the names of their directories
        for member in members:
            settings = _plain_values(member.settings)
            # What this call's base has in a field that is varied belongs to the member.
            settings |= {
                name: now[name] for name in varied if name not in settings and now[name] != self.base[name]
            }
            name = known.get(key(settings, self.base)) or self._new_name(member.name)
            self.entries.setdefault(name, Entry(name, settings))
            self.members.append(member._replace(name=name))
        self._planned = {member.name: plain(member.config) for member in self.members}
        self.write()

    def _new_name(self, name: str) -> str:
        number = 1
        while (other := name if number == 1 else f"{name}-{number}") in self.entries:
            number += 1
        return other

    def _refuse_another_base(
        self, now: Mapping[str, Any], entries: Sequence[Entry], members: Sequence[Member]
    ) -> None:
        free = _varied(entries, members)
        default = plain(configs.default_config())  # what a field was before there was such a field
        self.base = {name: self.base.get(name, default.get(name)) for name in now}
        differing = [
            f"config.{name}={value} (was {self.base[name]})"
            for name, value in now.items()
            if self.base[name] != value and name not in free and not name.startswith(configs.WITHOUT_EFFECT)
        ]
        if differing:
            raise UserError(
                f"{self.directory} holds a sweep of another config: {', '.join(differing)}. Give the old values, or "
                "another --workdir"
            )

    def is_complete(self, member: Member) -> bool:
        """Returns whether a member of this call needs no training: it is complete, or it would diverge again."""
        trained = _config_of(self.directory / member.name)
        planned = self._planned[member.name].items()
        if any(trained.get(k) != v for k, v in planned if not k.startswith(configs.WITHOUT_EFFECT)):
            return False
        return self.entries[member.name].failure == "diverged" or self.run(member.name).test is not None

    def fail(self, name: str, failure: str = "", error: str = "") -> None:
        """Notes how a member has failed; without arguments, that it has not."""
        self.entries[name] = self.entries[name]._replace(failure=failure, error=error)

    def run(self, name: str) -> RunRecord:
        """Returns what a member has reached; no metrics if it has not begun."""
        entry, directory = self.entries[name], self.directory / name
        fields = self._planned.get(name) or _config_of(directory) or self.base
        return RunRecord(directory, fields | entry.settings, _metrics(directory), entry.failure)

    def groups(self) -> dict[str, list[RunRecord]]:
        """Returns the runs by their settings, as `group` does, in the order of their validation accuracy.

        Settings with a seed that failed follow those without, and settings without a validated run come last. If
        nothing is held out, or if the validation images differ, the order is that of the plan.
        """
        groups = group([self.run(name) for name in self.entries])
        if not self._is_comparable(groups):
            return groups

        def rank(runs: Sequence[RunRecord]) -> tuple[bool, bool, float]:
            found = _complete_validations(runs)
            return not found, any(run.failure for run in runs), -statistics.fmean(found or [0])

        return dict(sorted(groups.items(), key=lambda item: rank(item[1])))

    def _is_comparable(self, groups: Mapping[str, Sequence[RunRecord]]) -> bool:
        runs = [run for members in groups.values() for run in members]
        is_alike = all(len({str(run.fields.get(name)) for run in runs}) == 1 for name in _OF_THE_IMAGES)
        return is_alike and not any(run.test is not None and not run.validation for run in runs)

    def remarks(self, groups: dict[str, list[RunRecord]]) -> list[str]:
        """Returns what a reader of the table must know, in paragraphs."""
        found = []
        if not self._is_comparable(groups):
            found.append(
                "Nothing is chosen here. The runs have no validation accuracy, or not of the same images (see "
                "config.data.holdout), so they are in the order of the plan. A choice by test accuracy would be too "
                "optimistic."
            )
        elif len(groups) > 1:
            best, runs = next(iter(groups.items()))
            if validation := _complete_validations(runs):
                share = 100 * statistics.fmean(validation)
                found.append(
                    f"The order is that of the validation accuracy, which chooses {best} ({share:.2f} %). Test accuracies "
                    "chose nothing."
                )
        runs = [run for members in groups.values() for run in members]
        for run in runs:
            if run.failure:
                found.append(f"{run.workdir.name} has {run.failure}: {self.entries[run.workdir.name].error}")
        rest = [run for run in runs if run.test is None and not run.failure]
        if rest:
            found.append(
                f"{len(rest)} of {len(runs)} runs are not complete; the same command continues them."
            )
        return found

    def write(self, groups: dict[str, list[RunRecord]] | None = None) -> None:
        """Writes `sweep.json` and, if there are groups, the comparison `sweep.md` and `sweep.png`."""
        contents = {}
        if groups is not None:
            contents = files(groups, self.directory / "sweep", self.remarks(groups))
        text = json.dumps(self._as_json(self.groups() if groups is None else groups), indent=2)
        write_all({self.directory / FILE: (text + "\n").encode(), **contents})

    def _as_json(self, groups: dict[str, list[RunRecord]]) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "base": self.base,
            "members": [self._member(entry) for entry in self.entries.values()],
            "points": [
                {
                    "name": name,
                    "settings": {k: v for k, v in self._settings(runs[0]).items() if k != "seed"},
                    "seeds": [run.fields["seed"] for run in runs],
                    "eval_accuracy": _statistics(_complete_validations(runs)),
                    "test_accuracy": _statistics(tests(runs)),
                }
                for name, runs in groups.items()
            ],
            "remarks": self.remarks(groups),
        }

    def _settings(self, run: RunRecord) -> dict[str, Any]:
        return self.entries[run.workdir.name].settings

    def _member(self, entry: Entry) -> dict[str, Any]:
        run = self.run(entry.name)
        begun = "stopped" if run.records else "planned"
        state = entry.failure or ("complete" if run.test is not None else begun)
        last = run.records[-1] if run.records else {}
        measured = {name: value for name, value in last.items() if name.startswith("test_") or name == "step"}
        best = {} if run.best_validation is None else {"eval_accuracy": run.best_validation}
        return {**entry._asdict(), "state": state, "metrics": measured | best}


def plain(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields of a config by dotted name, as JSON has them."""
    return _plain_values(configs.flatten(config.copy_and_resolve_references()))


def _plain_values(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in fields.items()}


def _complete_validations(runs: Sequence[RunRecord]) -> list[float]:
    return validations([run for run in runs if run.test is not None])


def _statistics(values: Sequence[float]) -> dict[str, float | int | None]:
    """Returns mean, sample standard deviation (None for fewer than two values) and their number."""
    return {
        "mean": statistics.fmean(values) if values else None,
        "standard_deviation": statistics.stdev(values) if len(values) > 1 else None,
        "count": len(values),
    }


def _varied(entries: Sequence[Entry], members: Sequence[Member]) -> set[str]:
    """Returns the names of the fields in which members differ by plan."""
    settings = [entry.settings for entry in entries] + [member.settings for member in members]
    return {name for fields in settings for name in fields}


def _config_of(directory: pathlib.Path) -> dict[str, Any]:
    """Returns the fields of a run's config by dotted name; {} if it has none."""
    try:
        return configs.flatten(json.loads((directory / "config.json").read_text()))
    except (OSError, ValueError, AttributeError):
        return {}


def _metrics(directory: pathlib.Path) -> list[dict[str, float]]:
    try:
        return read_metrics(directory / METRICS_FILE)
    except UserError:  # training says so when it comes to this member
        return []


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        saved = json.loads(path.read_text())
        if saved["version"] != _VERSION:
            raise UserError(
                f"{path} has the version {saved['version']}, but {_VERSION} is expected: give another --workdir"
            )
        if not all({*Entry._fields} <= {*member} for member in saved["members"]) or not saved["base"]:
            raise ValueError("it lacks fields")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as the plan of a sweep ({error}): delete it, and the same command finds the runs again"
        ) from error
    return saved
