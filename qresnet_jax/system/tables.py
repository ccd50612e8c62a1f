"""Lays out tables for the console."""

from collections.abc import Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], left: int = 1) -> list[str]:
    """Returns the lines of a table whose columns are as wide as their widest cell.

    Args:
      rows: the head and the rows, all of one length.
      left: how many of the first columns hold text, which is aligned left; numbers are aligned right.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
