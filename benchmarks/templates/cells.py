"""Formats the cells of tables: times, sizes, shares, ratios and dates, each with its unit."""

import datetime
from collections.abc import Iterable, Mapping


def markdown(*rows: Iterable) -> str:
    """Returns a Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(list(rows[0])), *lines[1:]])


def duration(seconds: float) -> str:
    """Returns a time with its unit: 102 µs, 8.3 ms, 0.488 s, 157 s."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 0.1:
        return f"{seconds * 1e3:.1f} ms"
    return f"{seconds:.3f} s" if seconds < 10 else f"{seconds:.0f} s"


def size(nbytes: int) -> str:
    """Returns a size to three digits: 0.18 kB, 49.1 kB, 1.09 MB; a kB has 1,000 bytes."""
    unit, divisor = ("MB", 1e6) if nbytes >= 1e6 else ("kB", 1e3)
    digits = 2 if nbytes < 1e3 else 3
    return f"{float(f'{nbytes / divisor:.{digits}g}'):g} {unit}"


def percent(share: float, digits: int = 2) -> str:
    """Returns a share, 0 to 1, in percent."""
    return f"{100 * share:.{digits}f} %"


def ratio(value: float) -> str:
    """Returns a ratio with two significant digits, or three from 10 on: 0.093, 1.0, 18.9, 140."""
    return f"{value:.0f}" if value >= 100 else f"{value:#.{3 if value >= 10 else 2}g}"


def accuracy(stats: Mapping | None) -> str:
    """Returns a mean accuracy, with the standard deviation if there are several seeds."""
    if stats is None:
        return "not measured"
    if stats["sd"] is None:
        return percent(stats["mean"])
    return f"{100 * stats['mean']:.2f} ± {100 * stats['sd']:.2f} %"


def range_of(spread: Mapping) -> str:
    """Returns a median ratio with the smallest and the largest of the rounds."""
    return f"{spread['median']:.2f} ({spread['min']:.2f} to {spread['max']:.2f})"


def several(count: int, noun: str) -> str:
    """Returns a number with its noun: 1 thread, 2 threads."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(texts: Iterable[str]) -> str:
    """Returns texts, each once, as an enumeration: a, b and c."""
    *first, last = dict.fromkeys(texts)
    return f"{', '.join(first)} and {last}" if first else last


def day(date: str) -> str:
    """Returns an ISO date in words: 29 November 2026."""
    parsed = datetime.date.fromisoformat(date)
    return f"{parsed.day} {parsed:%B %Y}"
