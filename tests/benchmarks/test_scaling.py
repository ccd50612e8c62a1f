import math

import pytest


@pytest.fixture
def scaling(benchmark):
    return benchmark("scaling")


def test_efficiencies_are_those_of_the_definition(scaling, benchmark, make_measurement):
    seconds = {
        ("strong", 1): [2.0, 2.0],
        ("strong", 2): [1.0, 2.0],
        ("weak", 1): [1.0, 1.0],
        ("weak", 2): [2.0, 4.0],
    }
    figures = scaling.times_figures(seconds)
    found = {(row["kind"], row["devices"]): row["efficiency"]["median"] for row in figures["rows"]}
    assert found == {("strong", 1): 1.0, ("strong", 2): 1.5, ("weak", 1): 1.0, ("weak", 2): 0.75}
    templates = benchmark("templates.scaling")
    measurements = {"times": make_measurement(**figures)}
    assert "| weak | 2 | 64 | 3.000 s | 0.75 (0.50 to 1.00) |" in templates.times(measurements)
    assert templates.scaling_figures(measurements)["strong_2"] == "150 %"


@pytest.mark.parametrize("chips", [8, 64, 1024])
def test_the_estimate_is_a_ring_and_a_latency_for_each(scaling, chips):
    none, one = (scaling.estimate([size], chips) for size in (0, 10**9))
    slowest = 450e9 if chips == 8 else 50e9
    assert one - none == pytest.approx(2 * (chips - 1) / chips * 1e9 / slowest)
    assert none == pytest.approx(6.8e-6 + 2 * 7 * 0.6e-6 + 2 * math.log2(chips / 8) * 5e-6)
    assert scaling.estimate([0, 0, 10**9], chips) == pytest.approx(2 * none + one)


@pytest.mark.slow
def test_what_is_exchanged_is_what_parameters_and_statistics_imply(scaling, benchmark, make_measurement):
    found = scaling.exchange(8, "cifar", 32, True)
    channels = 16 + 2 * 16 + 3 * 32 + 3 * 64
    binary = (
        sum(9 * a * b for a, b in [(16, 16)] * 2 + [(16, 32), (32, 32), (32, 64), (64, 64)])
        + 16 * 32
        + 32 * 64
    )
    parameters = binary + 2 * channels + 27 * 16 + 65 * 10 + 6
    assert found["expected"] == 4 * parameters + 16 * channels
    # Three metrics are added. The beta of a projection's batch norm has the gradient of the one that it is added to, and
    # XLA may exchange the two as one.
    assert -4 * (32 + 64) <= found["bytes"] - found["expected"] <= 3 * 4
    table = benchmark("templates.scaling").exchange({"x": make_measurement(**found)})
    assert f"| ResNet-8, 32x32 | over all devices | {found['count']} | " in table
