"""Draws pictures of a run from its metrics: pure functions that return a figure.

They return None if the run has nothing to show: a float network has no flips and no clipping levels.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from qresnet_jax.report.style import (
    BLUE,
    COLOURS,
    GREEN,
    GREY,
    VERMILION,
    by_stage,
    figure,
    grid,
    layers_with,
    logarithmic,
    plain,
    series,
    shades,
    stage_title,
)
from qresnet_jax.train.metrics.records import IN_FLOAT

MOST_IN_LEGEND = 8
_STEP = "training step"


def curves(records: Sequence[Mapping[str, float]]) -> Figure | None:
    """Draws loss and accuracy over the training steps, for training, validation and the final test.

    Args:
      records: the lines of `metrics.jsonl`.
    """
    if not len(series(records, "train_loss")[0]):
        return None
    fig, (left, right) = grid(2, 2, 3.4)
    for ax, metric, factor in ((left, "loss", 1), (right, "accuracy", 100)):
        steps, values = series(records, f"train_{metric}")
        ax.plot(steps, factor * values, color=BLUE, linewidth=1, label="training")
        steps, values = series(records, f"eval_{metric}")
        if len(steps):
            ax.plot(steps, factor * values, color=VERMILION, linewidth=1.4, label="validation")
        _mark_test(ax, records, metric, factor)
        _mark_switch(ax, records)
        ax.set_xlabel(_STEP)
    left.set(title="Loss (cross-entropy)", ylabel="nats")
    logarithmic(left)
    right.set(title="Accuracy", ylabel="%")
    right.legend(frameon=False, fontsize=9, loc="lower right")
    return fig


def _mark_test(ax: Axes, records: Sequence[Mapping[str, float]], metric: str, factor: float) -> None:
    _, values = series(records, f"test_{metric}")
    steps, chosen = series(records, "test_of_step")
    if len(steps):
        label = f"test, {100 * values[-1]:.2f} %" if metric == "accuracy" else "test"
        ax.plot(chosen[-1], factor * values[-1], "*", color=GREEN, markersize=11, label=label, zorder=3)


def _mark_switch(ax: Axes, records: Sequence[Mapping[str, float]]) -> None:
    """Draws where the float epochs end, if the run has any and has gone on after them."""
    steps, _ = series(records, IN_FLOAT)
    if len(steps) and steps[-1] < max(record["step"] for record in records):
        ax.axvline(steps[-1], color=GREY, linewidth=1, linestyle=":", label="quantized from here on")


_SIGN_METRICS = {
    "flips": "Signs that flip in a step",
    "held_back": "Held back by the loop",
    "never_flipped": "Never flipped so far",
}


def flips(records: Sequence[Mapping[str, float]]) -> Figure | None:
    """Draws the shares of the signs that flip, are held back and have never flipped.

    Each stage has a line, the mean over its layers, inside their range.

    Args:
      records: the lines of `metrics.jsonl`.
    """
    stages = by_stage(layers_with(records, "flips"))
    # Without hysteresis no weight is held back, and a panel of zeros would say nothing.
    shown = [kind for kind in _SIGN_METRICS if _largest(records, kind) > 0]
    if not stages or not shown:
        return None
    fig, axes = grid(len(shown), 3, 3.2)
    for ax, kind in zip(axes, shown, strict=True):
        if kind == "flips":
            ax.set_yscale("log")
        for (stage, layers), colour in zip(stages.items(), COLOURS, strict=False):
            steps, values = _of_layers(records, kind, layers)
            _mean_and_range(ax, steps, 100 * values, colour, stage_title(stage))
        _mark_switch(ax, records)
        ax.set(title=_SIGN_METRICS[kind], xlabel=_STEP)
        if kind != "flips":
            ax.set_ylim(bottom=0)
    axes[0].set_ylabel("% of the weights")
    axes[0].legend(frameon=False, fontsize=9)
    return fig


def _largest(records: Sequence[Mapping[str, float]], kind: str) -> float:
    return max(
        (max(series(records, f"{kind}/{layer}")[1]) for layer in layers_with(records, kind)), default=0
    )


def _of_layers(
    records: Sequence[Mapping[str, float]], kind: str, layers: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the steps, and the values `[layers, steps]`."""
    found = [series(records, f"{kind}/{layer}") for layer in layers]
    return found[0][0], np.stack([values for _, values in found])


def _mean_and_range(ax: Axes, steps: np.ndarray, values: np.ndarray, colour: str, label: str) -> None:
    mean, low = values.mean(0), values.min(0)
    if ax.get_yscale() == "log":  # a logarithmic axis cannot show 0, so the line has gaps there
        mean, low = (np.where(x > 0, x, np.nan) for x in (mean, low))
    ax.plot(steps, mean, color=colour, linewidth=1.4, label=label)
    if len(values) > 1:
        ax.fill_between(steps, low, values.max(0), color=colour, alpha=0.18, linewidth=0)


def clipping(records: Sequence[Mapping[str, float]]) -> Figure | None:
    """Draws the clipping level alpha of each quantizer over the training steps, in a panel for each stage.

    Args:
      records: the lines of `metrics.jsonl`.
    """
    stages = by_stage(layers_with(records, "alpha"))
    if not stages:
        return None
    fig, axes = grid(len(stages), 3 if len(stages) != 4 else 2, 3.2, sharey=True)
    colours = shades(max(map(len, stages.values())))
    for ax, (stage, layers) in zip(axes, stages.items(), strict=True):
        for layer, colour in zip(layers, colours, strict=False):
            steps, values = series(records, f"alpha/{layer}")
            ax.plot(steps, values, color=colour, linewidth=1.3, label=layer.removeprefix(f"{stage}."))
        many = len(layers) > MOST_IN_LEGEND
        title = f"Clipping levels, {stage_title(stage)}"
        ax.set(title=f"{title}\n(dark: first of {len(layers)} layers)" if many else title, xlabel=_STEP)
    axes[0].set_ylabel("alpha")
    lines = {label: line for ax in axes for line, label in zip(*ax.get_legend_handles_labels(), strict=True)}
    if len(lines) <= MOST_IN_LEGEND:  # names and colours are the same in every stage
        fig.legend(
            lines.values(), lines, frameon=False, fontsize=8, loc="outside lower center", ncols=len(lines)
        )
    return fig


def occupancy(records: Sequence[Mapping[str, float]]) -> Figure | None:
    """Draws which share of the activations has each level, layer by layer, in the last measurement.

    Args:
      records: the lines of `metrics.jsonl`.
    """
    measured = [record for record in records if any(name.startswith("occupancy/") for name in record)]
    if not measured:
        return None
    shares = _level_shares(measured[-1])
    top = max(map(max, shares.values()))
    fig = figure(min(1.3 + 0.24 * len(shares), 9.0))
    ax = fig.subplots()
    plain(ax)
    for level, colour in zip(range(top + 1), shades(top + 1), strict=True):
        values = [100 * levels.get(level, 0) for levels in shares.values()]
        before = [100 * sum(levels.get(q, 0) for q in range(level)) for levels in shares.values()]
        ax.barh(range(len(shares)), values, left=before, color=colour, label=str(level), height=0.8)
    every = -(-len(shares) // 32)
    ax.set_yticks(range(0, len(shares), every), list(shares)[::every])
    ax.set(xlim=(0, 100), xlabel="% of the activations", ylim=(len(shares) - 0.4, -0.6))
    ax.grid(visible=False, axis="y")
    many = f" (dark: 0, bright: {top})" if top >= MOST_IN_LEGEND else ""
    ax.set_title(f"Use of the activation levels at step {measured[-1]['step']:,}{many}", pad=26)
    if not many:
        ax.legend(
            frameon=False,
            fontsize=9,
            handlelength=1,
            columnspacing=1.2,
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            ncols=top + 1,
        )
    return fig


def _level_shares(record: Mapping[str, float]) -> dict[str, dict[int, float]]:
    """Returns `{layer: {level: share}}`, in the order of the network."""
    names = (name.rsplit("/", 1)[0] for name in layers_with([record], "occupancy"))
    shares: dict[str, dict[int, float]] = {name: {} for name in names}
    for layer, levels in shares.items():
        prefix = f"occupancy/{layer}/"
        levels.update({int(k.removeprefix(prefix)): v for k, v in record.items() if k.startswith(prefix)})
    return shares
