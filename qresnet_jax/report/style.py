"""Defines what all pictures share: their size, colours and axes, and the choice of metrics from a run's records."""

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
DPI = 100  # so a picture is 800 pixels wide, like a README on GitHub
# The palette of Okabe and Ito (2008), whose colours can be told apart with every kind of colour vision.
BLUE, VERMILION, GREEN, ORANGE = "#0072B2", "#D55E00", "#009E73", "#E69F00"
PURPLE, SKY, BLACK = (
    "#CC79A7",
    "#56B4E9",
    "#000000",
)  # without the palette's yellow, which is too pale for lines
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
GREY = "#606060"


def figure(height: float) -> Figure:
    """Returns an empty figure of the common width and a height in inches; it belongs to no window."""
    return Figure(figsize=(WIDTH, height), layout="constrained")


def png(fig: Figure) -> bytes:
    """Returns the bytes of a PNG file with the figure."""
    buffer = io.BytesIO()
    fig.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def grid(count: int, columns: int, height: float, **options: Any) -> tuple[Figure, list[Axes]]:
    """Returns a figure with `count` panels, and their axes, row by row.

    Args:
      count: the number of panels.
      columns: the largest number of panels side by side.
      height: the height of a row, in inches.
      **options: options of `Figure.subplots`, such as `sharey`.
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
    """Gives axes a faint grid and small numbers, and takes their frame away."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(color="#E5E5E5", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=9, colors="#404040")


def logarithmic(ax: Axes) -> None:
    """Makes the y axis logarithmic, with plain numbers at 1, 2, 5, 10, ..."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_formatter(ticker.NullFormatter())


def shades(count: int) -> list[tuple[float, float, float, float]]:
    """Returns RGBA colours for an ordered series, from dark to bright.

    They leave out the brightest part of viridis, which is too pale on white.
    """
    return [matplotlib.colormaps["viridis"](x) for x in np.linspace(0, 0.9, count)]


def series(records: Sequence[Mapping[str, float]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps, int `[N]`, and the values, float `[N]`, of a metric, from the records that have it."""
    found = [(record["step"], record[name]) for record in records if name in record]
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.array(steps, int), np.array(values, float)


def layers_with(records: Sequence[Mapping[str, float]], kind: str) -> list[str]:
    """Returns the layers that have a metric `kind/<layer>`, in the order of the network."""
    names = {
        name.removeprefix(f"{kind}/") for record in records for name in record if name.startswith(f"{kind}/")
    }
    return sorted(names, key=network_order)


def network_order(layer: str) -> list[tuple[bool, int | str]]:
    """Returns a sorting key, with which numbers in the paths of layers compare as numbers."""
    return [(part.isdigit(), int(part) if part.isdigit() else part) for part in layer.split(".")]


def stage_of(layer: str) -> str:
    """Returns the stage of a layer: `stages.1` for `stages.1.0.convs.0`; "" in a network without stages."""
    parts = layer.split(".")
    return ".".join(parts[:2]) if parts[0] == "stages" else ""


def stage_title(stage: str) -> str:
    """Returns what pictures call a stage."""
    return f"stage {stage.split('.')[-1]}" if stage else "all layers"


def by_stage(layers: Sequence[str]) -> dict[str, list[str]]:
    """Groups layers by stage; stages and layers keep their order."""
    stages: dict[str, list[str]] = {}
    for layer in layers:
        stages.setdefault(stage_of(layer), []).append(layer)
    return stages
