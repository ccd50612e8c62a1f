"""The picture of a comparison against the runs."""

import pathlib

import numpy as np

from qresnet_jax.report.compare_plot import comparison
from qresnet_jax.report.runs import RunRecord
from qresnet_jax.report.style import png


def make_run(validation, test):
    records = [{"step": 10 * i, "eval_accuracy": x} for i, x in enumerate(validation)]
    return RunRecord(pathlib.Path("runs/x"), {}, [*records, {} if test is None else {"test_accuracy": test}])


def test_lines_are_means_and_dots_are_runs():
    groups = {"a": [make_run([0.5, 0.6, 0.7], 0.6), make_run([0.7, 0.8], 0.7)], "b": [make_run([0.4], None)]}
    left, right = comparison(groups).axes
    first, second = left.lines
    np.testing.assert_array_equal(first.get_xdata(), [1, 2])  # what both runs have reached
    np.testing.assert_allclose(first.get_ydata(), [60, 70])
    np.testing.assert_allclose(second.get_ydata(), [40])
    dots, bar = right.lines
    np.testing.assert_allclose(dots.get_xdata(), [60, 70])
    np.testing.assert_allclose(bar.get_xdata(), [65, 65])
    assert [text.get_text() for text in comparison(groups).legends[0].get_texts()] == [
        "a (n = 2)",
        "b (n = 1)",
    ]


def test_any_runs_can_be_drawn():
    nothing = {"no validation, no test": [make_run([], None), make_run([], None)]}
    long_name = ", ".join(f"model.some_field_{i}={i}" for i in range(30))
    many = {f"{long_name}, seed={i}": [make_run([0.1 * i / 12, 0.5], 0.5)] for i in range(12)}
    for groups in (nothing, many):
        fig = comparison(groups)
        assert png(fig).startswith(b"\x89PNG")
    styles = {(line.get_color(), line.get_linestyle()) for line in fig.axes[0].lines}
    assert len(styles) == len(many)
