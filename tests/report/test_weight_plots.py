"""Histograms against NumPy's counts, and the drawn loop against a loop that is walked here step by step."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from qresnet_jax.report import weight_plots
from qresnet_jax.report.style import BLUE, COLOURS, VERMILION, png


def signs_in_the_loop(latent, threshold):
    """The rule, weight by weight and step by step."""
    signs = np.where(latent[0] >= 0, 1, -1)[None].repeat(len(latent), 0)
    for step in range(1, len(latent)):
        for w in range(latent.shape[1]):
            x, old = latent[step, w], signs[step - 1, w]
            signs[step, w] = 1 if x >= threshold else -1 if x <= -threshold else old
    return signs


def make_walk(threshold=0.1, steps=300, weights=7, reached=200, scale=0.5, seed=0):
    rng = np.random.default_rng(seed)
    latent = np.cumsum(rng.normal(0, 0.02, (steps, weights)), axis=0) * np.linspace(0.05, 1.5, weights)
    walk = {
        "latent": latent.astype(np.float32),
        "sign": signs_in_the_loop(latent, threshold * scale).astype(np.int8),
        "scale": np.full((steps, weights), scale, np.float32),
    }
    return {name: np.where(np.arange(steps)[:, None] < reached, x, 0) for name, x in walk.items()}


def paths(fig):
    """The lines of the walkers; the others are arrows and thresholds."""
    return [line for line in fig.axes[0].lines if len(line.get_xdata()) > 300]


def test_signs_change_beyond_the_thresholds_only():
    fig = weight_plots.hysteresis(make_walk(), 0.1, True, "stages.0.0.convs.0")
    assert len(paths(fig)) == weight_plots.WALKERS
    climbs = 0
    for line in paths(fig):
        x, y = line.get_xdata(), line.get_ydata()
        for i in np.flatnonzero(np.diff(y)):
            assert x[i] == x[i + 1]  # straight up or down
            assert x[i] >= 0.1 if y[i + 1] > y[i] else x[i] <= -0.1
            climbs += 1
    assert climbs >= 8


def test_the_path_visits_every_step():
    walk = make_walk()
    flips = np.sum(walk["sign"][1:200] != walk["sign"][:199], axis=0)
    most = int(np.argmax(flips))
    line = paths(weight_plots.hysteresis(walk, 0.1, True))[0]
    assert line.get_label() == f"{flips[most]} flips"
    x, y = line.get_xdata(), line.get_ydata()
    np.testing.assert_array_equal(x[::2], walk["latent"][:200, most] / np.float32(0.5))
    np.testing.assert_array_equal(np.sign(y[::2]), walk["sign"][:200, most])


def test_arrows_point_the_way_the_sign_goes():
    walk = make_walk()
    fig = weight_plots.hysteresis(walk, 0.1, True)
    for marker, side in (("^", 1), ("v", -1)):
        points = np.concatenate(
            [line.get_xdata() for line in fig.axes[0].lines if line.get_marker() == marker]
        )
        assert len(points) and np.all(side * points >= 0.1)


def test_those_that_flip_most_are_drawn():
    walk = make_walk()
    flips = np.sort(np.sum(walk["sign"][1:200] != walk["sign"][:199], axis=0))[::-1]
    labels = [line.get_label() for line in paths(weight_plots.hysteresis(walk, 0.1, True))]
    assert labels == [f"{n} flips" for n in flips[: weight_plots.WALKERS]]


def test_an_absolute_loop_is_drawn_over_the_latent_weights():
    walk = make_walk(threshold=0.1, scale=1.0) | {"scale": np.full((300, 7), 9.0)}
    fig = weight_plots.hysteresis(walk, 0.1, False)
    assert "mean" not in fig.axes[0].get_xlabel()
    largest = max(np.abs(line.get_xdata()).max() for line in paths(fig))
    assert largest <= np.abs(walk["latent"]).max()
    assert largest > 0.1


def test_thresholds_are_drawn():
    fig = weight_plots.hysteresis(make_walk(), 0.1, True)
    assert {line.get_xdata()[0] for line in fig.axes[0].lines if len(line.get_xdata()) == 2} >= {-0.1, 0.1}


def test_without_a_threshold_the_loop_is_a_step():
    fig = weight_plots.hysteresis(make_walk(threshold=0.0), 0.0, True)
    assert "without hysteresis" in fig.axes[0].get_title()
    for line in paths(fig):
        x, y = line.get_xdata(), line.get_ydata()
        assert all(x[i] * (y[i + 1] - y[i]) >= 0 for i in np.flatnonzero(np.diff(y)))


def test_no_loop_is_drawn_where_no_step_was_recorded():
    for walk in ({}, make_walk(reached=0), make_walk(reached=1)):
        assert weight_plots.hysteresis(walk, 0.1, True) is None


def test_where_no_sign_flipped_the_weights_that_came_nearest_are_drawn():
    walk = make_walk() | {"sign": np.where(np.arange(300)[:, None] < 200, 1, 0).repeat(7, 1)}
    latent = walk["latent"][:200] / walk["scale"][:200]
    nearest = set(np.argsort(np.abs(latent).min(axis=0))[: weight_plots.WALKERS])
    fig = weight_plots.hysteresis(walk, 0.1, True)
    assert [line.get_label() for line in paths(fig)] == ["0 flips"] * weight_plots.WALKERS
    assert {line.get_xdata()[0] for line in paths(fig)} == {latent[0, w] for w in nearest}


def layer_state(names, size=4000, threshold=0.1, seed=0):
    rng = np.random.default_rng(seed)
    latent = {name: rng.normal(0, 0.03, (1, 1, 1, size)) for name in names}
    scale = {name: np.abs(w).mean() for name, w in latent.items()}
    sign = {
        name: np.where(np.abs(w) < threshold * scale[name], rng.choice([-1, 1], w.shape), np.sign(w))
        for name, w in latent.items()
    }
    return latent, sign, scale


def counts(ax):
    """Edges of the bins, and the counts of the signs -1 and +1."""
    minus, plus = (patch.get_data() for patch in ax.patches)
    np.testing.assert_array_equal(plus.baseline, minus.values)  # stacked
    np.testing.assert_array_equal(plus.edges, minus.edges)
    return minus.edges, minus.values, plus.values - minus.values


def test_histograms_count_the_weights_of_each_sign():
    names = ["stages.10.0.convs.0", "stages.2.0.convs.0"]
    latent, sign, scale = layer_state(names)
    fig = weight_plots.latents(latent, sign, scale, 0.1, True)
    assert [ax.get_title() for ax in fig.axes] == names[::-1]
    for ax, name in zip(fig.axes, names[::-1], strict=True):
        x = latent[name] / scale[name]
        edges, *drawn = counts(ax)
        for s, values in zip((-1, 1), drawn, strict=True):
            np.testing.assert_array_equal(values, np.histogram(x[sign[name] == s], edges)[0])
        assert sum(map(sum, drawn)) == pytest.approx(weight_plots.SHOWN * x.size, rel=0.02)
        assert [patch.get_facecolor()[:3] for patch in ax.patches] == [to_rgb(VERMILION), to_rgb(BLUE)]


def test_thresholds_are_edges_of_bins_and_both_signs_lie_between_them():
    latent, sign, scale = layer_state(["a.0"])
    (ax,) = weight_plots.latents(latent, sign, scale, 0.1, True).axes
    assert sorted(line.get_xdata()[0] for line in ax.lines) == [-0.1, 0.1]
    edges, minus, plus = counts(ax)
    np.testing.assert_array_equal(minus > 0, edges[1:] <= 0.1 + 1e-9)
    np.testing.assert_array_equal(plus > 0, edges[:-1] >= -0.1 - 1e-9)


def test_the_weights_of_a_channel_are_measured_by_its_scale():
    latent = {"a.0": np.array([[1.0, 10.0], [2.0, 20.0]])[None, None]}
    scale = {"a.0": np.array([1.0, 10.0])}
    sign = {"a.0": np.ones((1, 1, 2, 2))}
    (ax,) = weight_plots.latents(latent, sign, scale, 0.0, True).axes
    edges, _, plus = counts(ax)
    assert plus.tolist() == np.histogram([1, 1, 2, 2], edges)[0].tolist() and plus.sum() >= 2


def test_a_wide_absolute_loop_stays_in_sight():
    latent, sign, scale = layer_state(["a.0"])
    (ax,) = weight_plots.latents(latent, sign, scale, 0.5, False).axes
    assert ax.get_xlim()[1] > 0.5


@pytest.mark.parametrize("threshold", [0.0, 1e-6, 0.1, 3.0])
def test_any_layer_can_be_drawn(threshold):
    constant = {"a.0": np.zeros((1, 1, 2, 3))}
    signs = {"a.0": np.ones((1, 1, 2, 3))}
    png(weight_plots.latents(constant, signs, {"a.0": 1.0}, threshold, True))
    latent, sign, scale = layer_state(["a.0"], size=6)
    fig = weight_plots.latents(latent, sign, scale, threshold, True)
    assert len(counts(fig.axes[0])[0]) <= 400
    png(fig)


def test_of_many_layers_some_are_shown_and_the_picture_says_so():
    names = [f"stages.0.{i}.convs.0" for i in range(100)]
    fig = weight_plots.latents(*layer_state(names, size=50), 0.1, True)
    assert len(fig.axes) == weight_plots.MOST_PANELS
    assert fig.axes[0].get_title() == names[0] and fig.axes[-1].get_title() == names[-1]
    assert "24 of 100 layers" in fig.get_supxlabel()


def test_a_float_network_has_no_latent_weights():
    assert weight_plots.latents({}, {}, {}, 0.1, True) is None


def test_colours_can_be_told_apart():
    assert len(set(COLOURS)) == len(COLOURS) >= weight_plots.WALKERS
