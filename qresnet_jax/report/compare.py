"""One table and one picture over several runs; runs that differ in the seed only become one line.

python -m qresnet_jax.report.compare DIR DIR ... [--out=compare]
"""

import argparse
import os
import pathlib
import statistics
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from qresnet_jax.errors import UserError
from qresnet_jax.report.runs import RunRecord, group, read_run

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("Runs", "n", "Seeds", "Validation", "Test", "Worst", "Epochs")

SIGN_COLUMNS = ("Runs", "Flips of a weight", "Dead band", "Held back", "Never flipped")
SIGN_NOTE = "Signs: means over the binary layers and the seeds; at the end of the run, in % of the weights, but for the flips."

NOTE = (
    "Accuracy in %: mean ± sample standard deviation over the seeds. Validation: of the best epoch. Test: of the checkpoint "
    "that training chose; worst: of the worst seed."
)


def rows(groups: dict[str, list[RunRecord]]) -> list[tuple[str, ...]]:
    """The cells of the table, in the order of `COLUMNS`."""
    return [
        (
            name,
            str(len(runs)),
            ", ".join(str(run.fields.get("seed", "?")) for run in runs),
            _mean_and_deviation([max(run.validation) for run in runs if run.validation], len(runs)),
            _mean_and_deviation(_tests(runs), len(runs)),
            f"{100 * min(_tests(runs)):.2f}" if _tests(runs) else "",
            ", ".join(dict.fromkeys(_epochs(run) for run in runs)),
        )
        for name, runs in groups.items()
    ]


def sign_rows(groups: dict[str, list[RunRecord]]) -> list[tuple[str, ...]]:
    """The cells of the second table, in the order of `SIGN_COLUMNS`; runs without binary weights have none."""
    found = {name: [run.signs for run in runs if run.signs] for name, runs in groups.items()}
    return [
        (
            name,
            f"{statistics.fmean(s['flips'] for s in signs):.2f}",
            *(
                f"{100 * statistics.fmean(s[kind] for s in signs):.1f}"
                for kind in ("dead_band", "held_back", "never_flipped")
            ),
        )
        for name, signs in found.items()
        if signs
    ]


def _tests(runs: Sequence[RunRecord]) -> list[float]:
    return [run.test for run in runs if run.test is not None]


def _epochs(run: RunRecord) -> str:
    planned = str(run.fields.get("num_epochs", "?"))
    return planned if run.test is not None else f"< {planned}"


def _mean_and_deviation(shares: Sequence[float], count: int) -> str:
    if not shares:
        return ""
    text = f"{100 * statistics.mean(shares):.2f}"
    if len(shares) > 1:
        text += f" ± {100 * statistics.stdev(shares):.2f}"
    return text if len(shares) == count else f"{text} ({len(shares)} of {count} runs)"


def as_markdown(groups: dict[str, list[RunRecord]], picture: str) -> str:
    """The table, the picture, and the directories of each group.

    Args:
      groups: from `group`.
      picture: path of the picture, relative to the file.
    """
    parts = [_markdown([COLUMNS, ["---", "---:", "---", *["---:"] * 4], *rows(groups)]), NOTE]
    if sign_rows(groups):
        parts += [_markdown([SIGN_COLUMNS, ["---", *["---:"] * 4], *sign_rows(groups)]), SIGN_NOTE]
    places = [f"- {name}: {', '.join(f'`{run.workdir}`' for run in runs)}" for name, runs in groups.items()]
    return "\n\n".join([*parts, f"![Comparison]({picture})", "\n".join(places)]) + "\n"


def _markdown(lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_tables(groups: dict[str, list[RunRecord]]) -> "list[Table]":
    """The tables for a console, of type `rich.table.Table`."""
    tables = [_table(COLUMNS, rows(groups), NOTE)]
    return [*tables, _table(SIGN_COLUMNS, sign_rows(groups), SIGN_NOTE)] if sign_rows(groups) else tables


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]], note: str) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(caption=note)
    for column in columns:
        left = column in ("Runs", "Seeds")
        table.add_column(column, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for name, *others in lines:
        table.add_row(Text(name.replace(", ", "\n")), *others)
    return table


def compare(
    workdirs: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str]
) -> dict[str, list[RunRecord]]:
    """Writes `OUT.md` and `OUT.png`.

    Args:
      workdirs: of the runs.
      out: path without suffix.

    Returns:
      The runs, grouped and named.

    Raises:
      UserError: a workdir that is none, is given twice or has no metrics; files that cannot be written.
    """
    groups = group([read_run(workdir) for workdir in workdirs])
    from qresnet_jax.report.compare_plot import comparison
    from qresnet_jax.report.style import png
    from qresnet_jax.system.files import write_all

    text, picture = pathlib.Path(f"{out}.md"), pathlib.Path(f"{out}.png")
    write_all({picture: png(comparison(groups)), text: as_markdown(groups, picture.name).encode()})
    return groups


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns its exit status, 2 after a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m qresnet_jax.report.compare",
        description="One table and one picture over several runs. Runs that differ in the seed only become one line.",
    )
    parser.add_argument("workdirs", nargs="+", metavar="DIR", help="workdir of a run, such as runs/digits")
    parser.add_argument("--out", default="compare", help="writes OUT.md and OUT.png; default: %(default)s")
    given = parser.parse_args(arguments)
    try:
        groups = compare(given.workdirs, given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    from rich.console import Console

    console = Console()
    console.print(*as_tables(groups), sep="\n\n")
    console.print(f"wrote {given.out}.md and {given.out}.png", highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
