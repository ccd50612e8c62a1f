import argparse


def test_gains_are_ratios_within_a_round(benchmark, make_measurement):
    sweep = benchmark("sweep")
    times = {"alone": [1.2, 2.4, 3.6], "each": [0.6, 2.0, 3.6], "vmap": [1.2] * 3, "vmap_one": [2.4] * 3}
    figures = sweep.figures_of(times, argparse.Namespace(runs=4), "ResNet-8 of digits", 64, 2)
    measurements = {"one": make_measurement(**figures)}
    speed = benchmark("templates.speed")
    table = speed.sweep(measurements)
    title = "4 x ResNet-8 of digits, batch 64, 2 devices"
    assert f"| {title} | one on each device | 0.167 s | 1.20 (1.00 to 2.00) |" in table
    assert speed.sweep_figures(measurements) == {"each": "1.20", "vmap": "2.00", "vmap_one": "1.00"}
