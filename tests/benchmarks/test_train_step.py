import pytest


@pytest.mark.slow
def test_a_run_measures_both_sides_and_saves_them(run_benchmark, benchmark, tmp_path):
    pytest.importorskip("torch")
    done = run_benchmark("train_step", "--rounds=1", "--threads=1", f"--save={tmp_path}")
    assert done.returncode == 0, done.stderr
    found = benchmark("results").load("train_step", tmp_path)["measurements"]["1 thread"]
    assert found["figures"]["ours"]["rounds"] == found["figures"]["pytorch"]["rounds"] == 1


def test_ratios_are_ours_over_pytorch_round_by_round(benchmark):
    times = {"jax": [1.0, 3.0, 2.0], "torch": [2.0, 1.0, 2.0]}
    figures = benchmark("train_step").figures_of(times, threads=2, devices=1)
    assert figures["ratio"] == {"median": 1.0, "min": 0.5, "max": 3.0, "rounds": 3}
    assert (figures["ours"]["median"], figures["pytorch"]["median"]) == (2.0, 2.0)
    measurement = {"figures": figures}
    assert benchmark("templates.speed").train_step_figures({"x": measurement}) == {
        "ratio_2_one_device": "1.00"
    }
