"""Draws overview.png, the picture at the top of the README: python docs/pictures/overview.py [--out=FILE]

The thresholds, the image, its logits and the size of the file are those of the digits network in the zoo. The latent weights
are drawn at random, as a packed file does not hold them.
"""

import argparse
import pathlib

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from qresnet_jax import load_packed
from qresnet_jax.ship.nodes import ThresholdsNode

INK, MUTED, BLUE, ORANGE, PANEL = "#1f2933", "#5f6c7b", "#2368a8", "#d9730d", "#f4f6f8"
MINUS = "\N{MINUS SIGN}"
SIZE = (12.6, 5.0)  # inches


def main() -> None:
    """Writes the picture."""
    parser = argparse.ArgumentParser(description="Draws the picture at the top of the README.")
    parser.add_argument("--out", default=pathlib.Path(__file__).with_suffix(".png"), help="of the PNG file")
    out = parser.parse_args().out
    network = load_packed("digits_resnet8_w1a2", engine="numpy")
    with plt.rc_context(
        {"font.size": 10, "text.color": INK, "axes.edgecolor": MUTED, "axes.labelcolor": INK}
    ):
        figure = plt.figure(figsize=SIZE, facecolor="white")
        for left, title, subtitle in (
            (0.010, "1  Train", "floats for the gradients, few bits forward"),
            (0.345, "2  Fold", "all that lies between two convolutions"),
            (0.680, "3  Ship", "one file, the same integers everywhere"),
        ):
            _panel(figure, left, title, subtitle)
        _arrow(figure, (0.322, 0.5), (0.347, 0.5))
        _arrow(figure, (0.657, 0.5), (0.682, 0.5))
        _draw_training(figure)
        _draw_folding(figure, network)
        _draw_shipping(figure, network)
        figure.savefig(out, dpi=140, metadata={"Software": None})
        plt.close(figure)


def _panel(figure, left, title, subtitle):
    box = FancyBboxPatch(
        (left, 0.02), 0.31, 0.96, boxstyle="round,pad=0,rounding_size=0.02", mutation_aspect=SIZE[0] / SIZE[1],
        transform=figure.transFigure, facecolor=PANEL, edgecolor="none", zorder=-2,
    )  # fmt: skip
    figure.add_artist(box)
    figure.text(left + 0.018, 0.905, title, fontsize=15, fontweight="bold", va="center")
    figure.text(left + 0.018, 0.842, subtitle, fontsize=10, color=MUTED, va="center")


def _arrow(figure, start, end):
    style = {"arrowstyle": "-|>", "mutation_scale": 16, "linewidth": 2, "color": INK}
    figure.add_artist(FancyArrowPatch(start, end, transform=figure.transFigure, **style))


def _draw_training(figure):
    latent = np.random.default_rng(15).normal(0, 0.25, (3, 3))
    scale = np.abs(latent).mean()
    for left, kernel, texts, caption in (
        (0.030, latent, [f"{w:+.2f}".replace("-", MINUS) for w in latent.flat], "latent weights"),
        (0.190, scale * np.where(latent >= 0, 1, -1), ["+s" if w >= 0 else f"{MINUS}s" for w in latent.flat], "1-bit weights"),
    ):  # fmt: skip
        axes = figure.add_axes((left, 0.50, 0.11, 0.11 * SIZE[0] / SIZE[1]))
        axes.imshow(kernel, cmap="PuOr_r", vmin=-0.7, vmax=0.7)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        for i, text in enumerate(texts):
            axes.text(i % 3, i // 3, text, ha="center", va="center", fontsize=9)
        axes.set_xlabel(caption, fontsize=10)
    _arrow(figure, (0.145, 0.635), (0.186, 0.635))
    figure.text(0.1655, 0.665, "sign", ha="center", fontsize=9, color=MUTED)

    axes = figure.add_axes((0.055, 0.135, 0.245, 0.24))
    x = np.linspace(-1, 4, 1001)
    axes.plot(x, np.clip(x, 0, 3), color=MUTED, linewidth=1, linestyle="--", label="backward")
    axes.plot(x, np.round(np.clip(x, 0, 3)), color=BLUE, linewidth=2, label="forward")
    axes.set_yticks(range(4), ["0", "1", "2", "3"])
    axes.set_xticks([0, 3], ["0", "clipping level"])
    axes.legend(frameon=False, fontsize=9, loc="upper left", borderaxespad=0)
    _bare(axes)
    figure.text(0.1775, 0.405, "2-bit activations: four levels", ha="center")


def _draw_folding(figure, network):
    for i, name in enumerate(("scale", "batch norm", "ReLU", "quantizer")):
        center = 0.3965 + 0.0685 * i
        box = {"boxstyle": "round,pad=0.4", "facecolor": "white", "edgecolor": "#c5ced8"}
        figure.text(center, 0.70, name, ha="center", va="center", fontsize=9.5, bbox=box)
    figure.add_artist(FancyArrowPatch(
        (0.50, 0.645), (0.50, 0.545), transform=figure.transFigure,
        arrowstyle="-|>", mutation_scale=16, linewidth=2, color=INK,
    ))  # fmt: skip
    figure.text(0.515, 0.597, "3 integers a channel", va="center", color=ORANGE, fontweight="bold")

    node = next(n for n in network.network.nodes if isinstance(n, ThresholdsNode) and len(n.thresholds) > 1)
    row = node.thresholds[0]
    axes = figure.add_axes((0.385, 0.175, 0.245, 0.33))
    acc = np.arange(row[0] - 14, row[-1] + 15)
    axes.plot(acc, np.searchsorted(row, acc, side="right"), ".", color=BLUE, markersize=5)
    for threshold in row:
        axes.axvline(threshold - 0.5, color=ORANGE, linewidth=1.2, linestyle=":")
    axes.set_xticks(row, [str(t) for t in row])
    axes.tick_params(axis="x", labelcolor=ORANGE)
    axes.set_yticks(range(4))
    axes.set_ylabel("level")
    axes.set_xlabel("sum of levels times signs")
    _bare(axes)


def _draw_shipping(figure, network):
    from sklearn.datasets import load_digits

    digits = load_digits()
    image = np.round(digits.images[-360] * (255 / 16)).astype(np.uint8)[..., None]
    axes = figure.add_axes((0.700, 0.50, 0.10, 0.10 * SIZE[0] / SIZE[1]))
    axes.imshow(255 - image[..., 0], cmap="gray", vmin=0, vmax=255)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel("uint8 pixels", fontsize=10)
    _arrow(figure, (0.804, 0.625), (0.836, 0.625))

    logits = network.logits(image[None])[0]
    axes = figure.add_axes((0.845, 0.50, 0.125, 0.252))
    axes.bar(range(10), logits, color=[ORANGE if k == logits.argmax() else "#9fb3c8" for k in range(10)])
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xticks(range(10), network.class_names, fontsize=9)
    axes.set_yticks([])
    axes.set_xlabel("int32 logits", fontsize=10)
    _bare(axes)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.tick_params(length=0)

    file = {"boxstyle": "round,pad=0.5", "facecolor": "white", "edgecolor": BLUE, "linewidth": 1.5}
    text = f"packed file\n{network.nbytes:,} bytes"
    figure.text(
        0.757,
        0.235,
        text,
        ha="center",
        va="center",
        fontsize=11,
        fontweight="bold",
        bbox=file,
        linespacing=1.5,
    )
    for y, names, what in (
        (0.315, "NumPy, JAX, C", "to run it"),
        (0.155, "C99, ONNX, StableHLO", "to take it elsewhere"),
    ):
        _arrow(figure, (0.816, 0.235 + (y - 0.235) * 0.3), (0.834, y - 0.012))
        figure.text(0.838, y, names, va="center", fontsize=10, fontweight="bold")
        figure.text(0.838, y - 0.058, what, va="center", fontsize=9.5, color=MUTED)


def _bare(axes):
    axes.set_facecolor("none")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


if __name__ == "__main__":
    main()
