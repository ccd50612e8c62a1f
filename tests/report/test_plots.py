"""What the pictures of records show: their lines and bars against the records; nothing where there is nothing to show."""

import numpy as np
import pytest

from qresnet_jax.report import plots
from qresnet_jax.report.style import png, series

PICTURES = ("curves", "flips", "clipping", "occupancy")


def lines(ax):
    return {line.get_label(): (np.array(line.get_xdata()), np.array(line.get_ydata())) for line in ax.lines}


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_drawn_without_metrics(name):
    assert getattr(plots, name)([{"step": 1, "images_per_second": 1.0}]) is None
    assert getattr(plots, name)([]) is None


@pytest.mark.parametrize("name", PICTURES)
def test_deep_networks_and_single_records_are_drawn(make_records, name):
    blocks = [(i, j) for i in range(4) for j in range(40)]
    layers = [f"stages.{i}.{j}.convs.{k}" for i, j in blocks for k in (0, 1)]
    acts = [f"stages.{i}.{j}.acts.{k}" for i, j in blocks for k in (0, 1)]
    for records in (make_records(2, layers, acts), make_records(1)):
        fig = getattr(plots, name)(records)
        assert png(fig).startswith(b"\x89PNG")
        assert fig.get_size_inches()[1] < 10


def test_curves_show_the_records(make_records):
    records = make_records()
    loss, accuracy = plots.curves(records).axes
    for ax, metric, factor in ((loss, "loss", 1), (accuracy, "accuracy", 100)):
        drawn = lines(ax)
        for label, name in (("training", f"train_{metric}"), ("validation", f"eval_{metric}")):
            steps, values = series(records, name)
            np.testing.assert_array_equal(drawn[label][0], steps)
            np.testing.assert_allclose(drawn[label][1], factor * values)


def test_curves_mark_the_test_at_the_chosen_checkpoint(make_records):
    records = make_records()
    records[-1] |= {"test_loss": 0.5, "test_accuracy": 0.75, "test_of_step": 120}
    loss, accuracy = map(lines, plots.curves(records).axes)
    assert [float(x[0]) for x in accuracy["test, 75.00 %"]] == [120, 75]
    assert [float(x[0]) for x in loss["test"]] == [120, 0.5]


def test_without_validation_only_training_is_shown(make_records):
    _, accuracy = plots.curves(make_records(validation=False)).axes
    assert list(lines(accuracy)) == ["training"]


def test_flips_are_means_over_the_layers_of_a_stage(make_records):
    records = make_records()
    fig = plots.flips(records)
    for ax, kind in zip(fig.axes, ("flips", "held_back", "never_flipped"), strict=True):
        layers = ("stages.0.0.convs.0", "stages.0.0.convs.1")
        expected = np.mean([series(records, f"{kind}/{layer}")[1] for layer in layers], axis=0)
        np.testing.assert_allclose(lines(ax)["stage 0"][1], 100 * expected)
        assert len(lines(ax)) == len(ax.collections) == 2  # means and ranges of two stages


def test_flips_of_zero_are_gaps_in_the_logarithmic_panel(make_records):
    records = make_records(6)
    for name in [name for name in records[2] if name.startswith("flips/stages.0")]:
        records[2][name] = 0.0
    fig = plots.flips(records)
    assert fig.axes[0].get_yscale() == "log"
    assert np.flatnonzero(np.isnan(lines(fig.axes[0])["stage 0"][1])).tolist() == [2]
    png(fig)


def test_without_a_loop_nothing_is_held_back_and_the_panel_is_left_out(make_records):
    records = [{k: 0.0 if k.startswith("held_back") else v for k, v in r.items()} for r in make_records()]
    titles = [ax.get_title() for ax in plots.flips(records).axes]
    assert titles == ["Signs that flip in a step", "Never flipped so far"]


def test_clipping_has_a_line_for_each_quantizer(make_records):
    records = make_records()
    axes = plots.clipping(records).axes
    assert [sorted(lines(ax)) for ax in axes] == [["0.acts.0", "0.acts.1"], ["0.acts.0"]]
    np.testing.assert_array_equal(
        lines(axes[1])["0.acts.0"][1], series(records, "alpha/stages.1.0.acts.0")[1]
    )


def test_occupancy_stacks_the_last_measurement(make_records):
    records = [*make_records(), {"step": 301, "eval_loss": 1.0}]
    (ax,) = plots.occupancy(records).axes
    assert [text.get_text() for text in ax.get_yticklabels()] == [
        "stages.0.0.acts.0",
        "stages.0.0.acts.1",
        "stages.1.0.acts.0",
    ]
    for level, bars in enumerate(ax.containers):
        for bar, act in zip(
            bars, ("stages.0.0.acts.0", "stages.0.0.acts.1", "stages.1.0.acts.0"), strict=True
        ):
            shares = [100 * records[-2][f"occupancy/{act}/{q}"] for q in range(4)]
            assert bar.get_width() == pytest.approx(shares[level])
            assert bar.get_x() == pytest.approx(sum(shares[:level]))


def test_layers_of_different_bits_share_a_picture(make_records):
    records = make_records(1)
    records[0] |= {f"occupancy/stages.2.0.acts.0/{q}": 1 / 16 for q in range(16)}
    (ax,) = plots.occupancy(records).axes
    assert len(ax.containers) == 16
    ends = [sum(bars[i].get_width() for bars in ax.containers) for i in range(4)]
    np.testing.assert_allclose(ends, 100)
