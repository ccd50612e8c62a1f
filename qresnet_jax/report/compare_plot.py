"""Draws a comparison of runs: the validation accuracy over the epochs, and the test accuracy of every run."""

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qresnet_jax.report.runs import RunRecord
from qresnet_jax.report.style import COLOURS, figure, plain

_LINES = ("-", "--", ":", "-.")


def comparison(groups: dict[str, list[RunRecord]]) -> Figure:
    """Draws the comparison.

    The left panel has a line for each group, the mean over its runs, inside their range. The right panel has a dot for
    each run.

    Args:
      groups: from `qresnet_jax.report.runs.group`.
    """
    labels = [textwrap.fill(name, 110) for name in groups]
    height = 3.2 + 0.2 * sum(label.count("\n") + 1 for label in labels)
    fig = figure(height)
    left, right = fig.subplots(1, 2, width_ratios=(3, 2))
    plain(left)
    plain(right)
    for i, (runs, label) in enumerate(zip(groups.values(), labels, strict=True)):
        colour, line = COLOURS[i % len(COLOURS)], _LINES[i // len(COLOURS) % len(_LINES)]
        _validation(left, runs, colour, line, label)
        _tests(right, runs, i, colour)
    left.set(title="Validation accuracy", xlabel="epoch", ylabel="%", ylim=(_lowest(groups), None))
    right.set(title="Test accuracy (bar: mean)", xlabel="%", ylim=(len(groups) - 0.5, -0.5))
    right.set_yticks([])
    right.spines["left"].set_visible(False)
    fig.legend(loc="outside lower left", frameon=False, fontsize=9)
    return fig


def _validation(ax: Axes, runs: Sequence[RunRecord], colour: str, line: str, label: str) -> None:
    """Draws the mean and the range of a group, up to the last epoch that all its runs have reached."""
    curves = [run.validation for run in runs if run.validation and not run.failure]
    length = min(map(len, curves), default=0)
    values = 100 * np.array([curve[:length] for curve in curves]).reshape(len(curves), length)
    epochs = np.arange(1, length + 1)
    mean = values.mean(0) if len(values) else []
    ax.plot(epochs, mean, line, color=colour, linewidth=1.4, label=f"{label} (n = {len(runs)})")
    if len(values) > 1:
        ax.fill_between(epochs, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)


def _lowest(groups: Mapping[str, Sequence[RunRecord]]) -> float:
    """Returns a lower end of the axis that leaves out the steepest tenth of training, where all rise from chance."""
    curves = [100 * np.array(run.validation) for runs in groups.values() for run in runs if run.validation]
    return min((np.quantile(curve, 0.1) for curve in curves), default=1) - 1


def _tests(ax: Axes, runs: Sequence[RunRecord], row: int, colour: str) -> None:
    tests = [100 * run.test for run in runs if run.test is not None]
    if tests:
        ax.plot(tests, [row] * len(tests), "o", color=colour, alpha=0.6, markersize=5, markeredgewidth=0)
        mean = float(np.mean(tests))
        ax.plot([mean, mean], [row - 0.25, row + 0.25], color=colour, linewidth=2)
        ax.annotate(
            f"{mean:.2f}", (mean, row - 0.25), (0, 2), textcoords="offset points", ha="center", size=9
        )
