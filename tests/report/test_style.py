"""Which metrics are picked from records, in which order, and what a figure is saved as."""

import io

import numpy as np
import PIL.Image
import pytest

from qresnet_jax.report import style


def test_a_series_has_the_records_that_know_the_metric():
    records = [{"step": 1, "a": 0.5}, {"step": 2}, {"step": 3, "a": 0.25}]
    steps, values = style.series(records, "a")
    assert steps.tolist() == [1, 3] and values.tolist() == [0.5, 0.25]
    assert style.series(records, "b")[0].size == 0


def test_layers_come_in_the_order_of_the_network():
    names = [
        "stages.10.0.convs.0",
        "stages.2.0.project",
        "stages.2.0.convs.11",
        "stages.2.0.convs.2",
        "stages.2.0",
    ]
    records = [{"step": 1, **{f"flips/{name}": 0.0 for name in names}}, {"step": 2, "flips2/x": 1.0}]
    assert style.layers_with(records, "flips") == names[::-1]


def test_layers_are_grouped_by_stage():
    names = ["stages.0.0.acts.0", "stages.0.1.acts.0", "stages.1.0.acts.0"]
    assert style.by_stage(names) == {"stages.0": names[:2], "stages.1": names[2:]}


@pytest.mark.parametrize("count", [1, 3, 7])
def test_a_grid_has_no_empty_panels(count):
    fig, axes = style.grid(count, 3, 2.0)
    assert len(axes) == len(fig.axes) == count


def test_pictures_are_as_wide_as_a_readme():
    fig, _ = style.grid(2, 2, 3.0)
    with PIL.Image.open(io.BytesIO(style.png(fig))) as image:
        assert image.format == "PNG" and image.size == (800, 300)


def test_shades_go_from_dark_to_bright():
    brightness = [np.dot(shade[:3], (0.2126, 0.7152, 0.0722)) for shade in style.shades(6)]
    assert np.all(np.diff(brightness) > 0.05) and brightness[-1] < 0.85
