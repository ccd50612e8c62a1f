"""Compares several runs in a table and a picture. Runs that differ only in the seed share a line.

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
from qresnet_jax.system.files import as_path, write_all

if TYPE_CHECKING:
    from rich.table import Table

COLUMNS = ("Runs", "n", "Seeds", "Validation", "Test", "Worst", "Epochs")

SIGN_COLUMNS = ("Runs", "Flips of a weight", "Dead band", "Held back", "Never flipped")
SIGN_NOTE = (
    "Signs: means over the binary layers and the seeds. The flips count the whole run; the other columns are "
    "percentages of the weights at its end."
)

NOTE = (
    "Accuracy in %: mean ± sample standard deviation over the seeds, of complete runs as soon as there is one. "
    "Validation is the accuracy of the best epoch, test that of the checkpoint that training chose, and worst that of "
    "the worst seed."
)

_WIDTH = 160  # characters, where the output is no terminal


def rows(groups: dict[str, list[RunRecord]]) -> list[tuple[str, ...]]:
    """Returns the cells of the table of accuracies, a row for each group, in the order of `COLUMNS`."""
    return [
        (
            name,
            str(len(runs)),
            ", ".join(str(run.fields.get("seed", "?")) for run in runs),
            _mean_and_deviation(validations(runs), len(runs)),
            _mean_and_deviation(tests(runs), len(runs)),
            f"{100 * min(tests(runs)):.2f}" if tests(runs) else "",
            ", ".join(dict.fromkeys(_epochs(run) for run in runs)),
        )
        for name, runs in groups.items()
    ]


def sign_rows(groups: dict[str, list[RunRecord]]) -> list[tuple[str, ...]]:
    """Returns the cells of the table of signs, in the order of `SIGN_COLUMNS`; a float network has no row in it."""
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


def tests(runs: Sequence[RunRecord]) -> list[float]:
    """Returns the test accuracies of the complete runs of a group, 0 to 1."""
    return [run.test for run in runs if run.test is not None]


def validations(runs: Sequence[RunRecord]) -> list[float]:
    """Returns the best validation accuracies of a group, 0 to 1: of its complete runs or, if there is none, of all."""
    complete = [run for run in runs if run.test is not None]
    return [
        run.best_validation for run in complete or runs if run.best_validation is not None and not run.failure
    ]


def _epochs(run: RunRecord) -> str:
    if run.failure:
        return run.failure
    planned = str(run.fields.get("num_epochs", "?"))
    return planned if run.test is not None else f"< {planned}"


def _mean_and_deviation(shares: Sequence[float], count: int) -> str:
    if not shares:
        return ""
    text = f"{100 * statistics.mean(shares):.2f}"
    if len(shares) > 1:
        text += f" ± {100 * statistics.stdev(shares):.2f}"
    return text if len(shares) == count else f"{text} ({len(shares)} of {count} runs)"


def as_markdown(groups: dict[str, list[RunRecord]], picture: str, remarks: Sequence[str] = ()) -> str:
    """Returns the comparison in Markdown: the tables, the picture, and the directories of each group.

    Args:
      groups: from `group`.
      picture: the path of the picture, relative to the Markdown file.
      remarks: paragraphs that follow the table of accuracies.
    """
    table = _markdown([COLUMNS, ["---", "---:", "---", *["---:"] * 4], *rows(groups)])
    parts = [table, NOTE, *remarks]
    if sign_rows(groups):
        parts += [_markdown([SIGN_COLUMNS, ["---", *["---:"] * 4], *sign_rows(groups)]), SIGN_NOTE]
    places = [f"- {name}: {', '.join(f'`{run.workdir}`' for run in runs)}" for name, runs in groups.items()]
    return "\n\n".join([*parts, f"![Comparison]({picture})", "\n".join(places)]) + "\n"


def _markdown(lines: Iterable[Iterable[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def as_tables(groups: dict[str, list[RunRecord]]) -> "list[Table]":
    """Returns the tables for a console."""
    tables = [_table(COLUMNS, rows(groups), NOTE)]
    return [*tables, _table(SIGN_COLUMNS, sign_rows(groups), SIGN_NOTE)] if sign_rows(groups) else tables


def print_tables(groups: dict[str, list[RunRecord]]) -> None:
    """Prints the tables; where the output is no terminal, names and numbers are not broken into lines."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH)
    console.print(*as_tables(groups), sep="\n\n")


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
    """Compares runs, and writes the comparison to `OUT.md` and `OUT.png`.

    Args:
      workdirs: the directories of the runs.
      out: the path of the files, without their suffixes.

    Returns:
      The runs in named groups, see `group`.

    Raises:
      UserError: a directory does not belong to a run or has no metrics yet, two directories hold the same run, or the
        files cannot be written.
    """
    groups = group([read_run(workdir) for workdir in workdirs])
    write_all(files(groups, out))
    return groups


def files(
    groups: dict[str, list[RunRecord]], out: str | os.PathLike[str], remarks: Sequence[str] = ()
) -> dict[pathlib.Path, bytes]:
    """Returns the content of the files `OUT.md` and `OUT.png`, by path; see `as_markdown`."""
    from qresnet_jax.report.compare_plot import comparison
    from qresnet_jax.report.style import png

    text, picture = as_path(f"{out}.md"), as_path(f"{out}.png")
    return {picture: png(comparison(groups)), text: as_markdown(groups, picture.name, remarks).encode()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command, and returns its exit status: 0, or 2 after a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m qresnet_jax.report.compare",
        description="Compares several runs in a table and a picture; runs that differ only in the seed share a line.",
    )
    parser.add_argument(
        "workdirs", nargs="+", metavar="DIR", help="the directory of a run, such as runs/digits"
    )
    parser.add_argument("--out", default="compare", help="writes OUT.md and OUT.png (default: %(default)s)")
    given = parser.parse_args(arguments)
    try:
        groups = compare(given.workdirs, given.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_tables(groups)
    print(f"wrote {given.out}.md and {given.out}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
