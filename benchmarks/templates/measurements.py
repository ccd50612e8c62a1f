"""Selects the measurements of a table, and says in words when, where and how they were made."""

from collections.abc import Iterable, Mapping

from templates.cells import day, listed, several

Measurements = Mapping[str, Mapping]  # those of a result file, by key


def provenance(
    measurements: Iterable[Mapping], versions: Iterable[str] = (), commands: bool = True, about: str = ""
) -> str:
    """Returns sentences that say when, where and how the figures were measured.

    Args:
      measurements: the measurements of the table; those under the same circumstances share a sentence.
      versions: keys of the field `versions` that matter here; those that were not recorded are left out.
      commands: whether to name the commands, which is not needed if the table shows them.
      about: what the sentences are about, such as "Speed"; it stands in front of them.
    """
    groups = {}
    for one in measurements:
        known = ((name, one["versions"].get(name)) for name in versions)
        software = ", ".join(f"{_NAMES.get(name, name)} {version}" for name, version in known if version)
        # Commands belong to their commit; without them, a sentence can name several.
        circumstances = (one["source"], one["date"], software, _commit(one) if commands else "")
        machines, commits, lines = groups.setdefault(circumstances, ([], [], []))
        machines.append(_machine(one["machine"]))
        commits.append(_commit(one))
        lines += [f"`{line}`" for line in one["command"]]
    sentences = []
    for (source, date, software, _), (machines, commits, lines) in groups.items():
        origin = "measured" if source == "measured" else f"{source}, measured"
        by = f" by {listed(lines)}" if commands else ""
        details = ", ".join(part for part in (listed(machines), software, listed(commits)) if part)
        sentences.append(f"{origin} on {day(date)}{by}{'; ' if details else ''}{details}")
    if about and sentences:
        sentences[0] = f"{about}: {sentences[0]}"
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in sentences)


_NAMES = {"python": "Python", "numpy": "NumPy", "torch": "PyTorch", "flax": "Flax", "jax": "JAX"}


def _machine(machine):
    cores = several(machine["cores"], "core") if machine["cores"] else ""
    cpu = " of ".join(part for part in (cores, machine["cpu"]) if part)
    memory = f"{machine['memory_gib']:.0f} GiB of memory" if machine["memory_gib"] else ""
    return ", ".join(part for part in (machine["gpu"], cpu, memory, machine["os"]) if part)


def _commit(measurement):
    if not measurement["commit"]:
        return ""
    return f"commit {measurement['commit'][:7]}{' with uncommitted changes' if measurement['dirty'] else ''}"


def with_provenance(table: str, *sentences: str) -> str:
    """Returns a table with sentences about it in italics below."""
    return f"{table}\n\n*{' '.join(sentences)}*"


def having(measurements: Measurements, **wanted) -> list[Mapping]:
    """Returns the measurements whose figures have the wanted values."""
    found = measurements.values()
    return [one for one in found if all(one["figures"].get(key) == value for key, value in wanted.items())]


def figures(measurements: Measurements, **wanted) -> list[Mapping]:
    """Returns the figures of the measurements that have the wanted values."""
    return [one["figures"] for one in having(measurements, **wanted)]
