"""What all pictures share: size, colours, axes, and the choice of metrics from a run's records."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 8.0  # inches
DPI = 100  # so 800 pixels, as wide as a README is shown
# Okabe and Ito 2008: told apart with every kind of colour vision.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK = "#CC79A7", "#56B4E9", "#000000"  # their yellow is too pale for lines
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#606060"


def figure(height: float) -> Figure:
    """An empty figure of the common width, which belongs to no window."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def png(fig: Figure) -> bytes:
    """The figure as a PNG file."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def grid(count: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels, row by row.

    Args:
      count: of panels.
      columns: at most so many side by side.
      height: of a row, in inches.
      **options: of `Figure.subplots`, such as sharey.
    """
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    fig = figure(height * rows)
    axes = list(fig.subplots(rows, columns, squeeze=False, **options).flat)
    for unused in axes[count:]:
        unused.remove()
    for ax in axes[:count]:
        plain(ax)
    return fig, axes[:count]


def plain(ax: Axes) -> None:
    """No frame, a faint grid, small numbers."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#E5E5E5", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9, colors="#404040")


def logarithmic(ax: Axes) -> None:
    """A logarithmic y axis with plain numbers at 1, 2, 5, 10, ..."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Colours for an ordered series, dark to bright; the brightest of viridis is too pale on white."""
    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0, 0.9, count)]


def series(records: Sequence[Mapping[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """`(steps, values)` of a metric, from the records that have it."""
    found = [(record["step"], record[name]) for record in records if name in record]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, int), np.array(values, float)


def layers_with(records: Sequence[Mapping[str, float]], kind: str) -> list[str]:
    """The layers that have a metric `kind/<layer>`, in the order of the network."""
    names = {
        name.removeprefix(f"{kind}/") for record in records for name in record if name.startswith(f"{kind}/")
    }
    return sorted(names, key=network_order)


def network_order(layer: str) -> list[tuple[bool, int | str]]:
    """A sorting key: numbers in a layer's path compare as numbers."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in layer.split(".")]


def stage_of(layer: str) -> str:
    """`stages.1` of `stages.1.0.convs.0`."""
    return ".".join(layer.split(".")[:2])


def by_stage(layers: Sequence[str]) -> dict[str, list[str]]:
    """Layers grouped by stage, both in their order."""
    stages: dict[str, list[str]] = {}
    for layer in layers:
        stages.setdefault(stage_of(layer), []).append(layer)
    return stages
