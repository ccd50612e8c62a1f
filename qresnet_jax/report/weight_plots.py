"""Draws the binary weights: where the latent weights lie, and how some of them walked through the hysteresis loop."""

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qresnet_jax.report.style import BLUE, COLOURS, GREY, VERMILION, figure, grid, network_order, plain

MOST_PANELS = 24
WALKERS = 4  # the number of weights whose walk is drawn
FARTHEST = 10  # how far from 0 a walk is drawn, in thresholds; a longer axis would squeeze the loop
SHOWN = 0.9  # the share of the latent weights that a histogram shows; the tails would squeeze the loop


def latents(
    latent: Mapping[str, np.ndarray],
    sign: Mapping[str, np.ndarray],
    scale: Mapping[str, np.ndarray],
    threshold: float,
    relative: bool,
) -> Figure | None:
    """Draws histograms of the latent weights, layer by layer, in two colours for the two current signs.

    Between the thresholds both colours occur, as a weight keeps its sign there.

    Args:
      latent: the latent weights by layer, float kernels.
      sign: their current signs, -1 or +1, with the same shapes.
      scale: the scale s of each layer, which broadcasts to its kernel.
      threshold, relative: of the hysteresis loop, see `hysteresis_binarize`.

    Returns:
      The figure, or None if there are no layers.
    """
    if not latent:
        return None
    names = sorted(latent, key=network_order)
    picked = np.unique(np.linspace(0, len(names) - 1, min(MOST_PANELS, len(names))).round().astype(int))
    fig, axes = grid(len(picked), 4, 1.65)
    for ax, name in zip(axes, (names[i] for i in picked), strict=True):
        w = latent[name] / scale[name] if relative else latent[name]
        _sign_histogram(ax, w.ravel(), sign[name].ravel(), threshold)
        ax.set_title(name, size=8)
    unit = "latent weight / mean |latent weight|" if relative else "latent weight"
    handles, labels = axes[0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside upper center", ncols=4, frameon=False, fontsize=9)
    tails = f" (the outer {100 * (1 - SHOWN):.0f} % are not shown)"
    which = "" if len(picked) == len(names) else f", {len(picked)} of {len(names)} layers"
    fig.supxlabel(f"{unit}{tails}{which}", size=10)
    return fig


def _sign_histogram(ax: Axes, w: np.ndarray, sign: np.ndarray, threshold: float) -> None:
    count = int(np.clip(np.sqrt(w.size) / 2, 10, 30))  # bins on each side; small layers need wide bins
    bins = _bins(max(np.quantile(np.abs(w), SHOWN), 1.1 * threshold), count, threshold)
    minus, plus = (np.histogram(w[sign == s], bins)[0] for s in (-1, 1))
    ax.stairs(minus, bins, fill=True, color=VERMILION, label="sign $-$1")
    ax.stairs(minus + plus, bins, baseline=minus, fill=True, color=BLUE, label="sign +1")
    if threshold:
        for t, label in ((-threshold, "thresholds"), (threshold, None)):
            ax.axvline(t, color="black", linewidth=0.8, linestyle="--", label=label)
    ax.set(xlim=(bins[0], bins[-1]), ylim=(0, None))
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.grid(visible=False)


def _bins(limit: float, count: int, threshold: float) -> np.ndarray:
    """Returns the edges of about `2 * count` bins from -limit to limit.

    The thresholds are among the edges, unless they are much smaller than a bin.
    """
    width = (limit or 1.0) / count
    if threshold > width / 3:
        width = threshold / math.ceil(threshold / width)
    count = math.ceil((limit or 1.0) / width)
    return width * np.arange(-count, count + 1)


def hysteresis(
    walk: Mapping[str, np.ndarray], threshold: float, relative: bool, layer: str = ""
) -> Figure | None:
    """Draws how some weights walked through the hysteresis loop: the sign over the latent weight, step by step.

    Args:
      walk: `latent` float, `sign` int (0 for steps that were not reached) and `scale` float, each `[steps, weights]`.
      threshold, relative: of the loop, see `hysteresis_binarize`.
      layer: the path of the layer that the weights belong to.

    Returns:
      The figure, or None if fewer than two steps are recorded.
    """
    done = int(np.sum(walk["sign"][:, 0] != 0)) if walk else 0
    if done < 2:
        return None
    sign = walk["sign"][:done].astype(int)
    x = walk["latent"][:done] / walk["scale"][:done] if relative else walk["latent"][:done]
    counts = np.sum(sign[1:] != sign[:-1], axis=0)
    walkers = np.lexsort((np.abs(x).min(axis=0), -counts))[:WALKERS]  # most flips first, then closest to one
    fig = figure(3.8)
    ax = fig.subplots()
    plain(ax)
    for i, (w, colour) in enumerate(zip(walkers, COLOURS, strict=False)):
        offset = 0.09 * (i - (len(walkers) - 1) / 2)
        _walk(ax, x[:, w], sign[:, w], offset, colour, f"{counts[w]} flips")
    for t in {-threshold, threshold}:
        ax.axvline(t, color="black", linewidth=1, linestyle="--")
    _label_thresholds(ax, threshold)
    ax.set_yticks([-1, 1], ["sign $-$1", "sign +1"])
    unit = " / mean |latent weight|" if relative else ""
    ax.set(ylim=(-1.45, 1.45), xlabel=f"latent weight{unit}")
    if threshold:
        limit = min(np.abs(x[:, walkers]).max() * 1.05, FARTHEST * threshold)
        ax.set_xlim(-limit, limit)
    ax.grid(visible=False)
    of = f" of {layer}" if layer else ""
    how = "in the hysteresis loop" if threshold else "without hysteresis"
    ax.set_title(f"{len(walkers)} weights{of} {how}, first {done:,} steps")
    ax.legend(frameon=False, fontsize=9, loc="center right")
    return fig


def _walk(ax: Axes, x: np.ndarray, sign: np.ndarray, offset: float, colour: str, label: str) -> None:
    """Draws each step along the old sign to the new latent weight, then up or down to the new sign, with an arrow."""
    xs, ys = np.repeat(x, 2)[1:], np.repeat(sign, 2)[:-1] + offset
    ax.plot(xs, ys, color=colour, linewidth=1, alpha=0.75, label=label)
    at = np.flatnonzero(sign[1:] != sign[:-1]) + 1
    for direction, marker in ((1, "^"), (-1, "v")):
        points = x[at[sign[at] == direction]]
        ax.plot(
            points, np.full(len(points), 4 * offset), marker, color=colour, markersize=5, linestyle="none"
        )


def _label_thresholds(ax: Axes, threshold: float) -> None:
    if threshold:
        for t, side in ((-threshold, "right"), (threshold, "left")):
            ax.text(t, 1.4, f" {t:+g} ", ha=side, va="top", size=9, color=GREY)
