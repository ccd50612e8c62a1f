import argparse
import types


def test_without_an_accelerator_it_says_what_to_run_instead(run_benchmark):
    done = run_benchmark("epochs", "--rounds=1")
    assert done.returncode != 0
    assert "this needs a GPU or TPU" in done.stderr and "benchmarks/train_step.py" in done.stderr


def test_figures_are_rendered_for_all_epochs_and_for_a_step(benchmark, make_measurement):
    epochs = benchmark("epochs")
    args = argparse.Namespace(batch=100, dtype="float32", images=50_000)
    times = {"W1A2": [0.5, 0.6, 0.7], "float": [0.6, 0.6, 0.6]}
    training = types.SimpleNamespace(steps=500, length=50)
    figures = epochs.figures_of(times, args, training, copies=0)
    table = benchmark("templates.speed").epochs({"one": make_measurement(**figures)})
    expected = "| Batch 100, float32 | 120 s (1.2 ms a step) | 120 s (1.2 ms a step) | 1.00 (0.83 to 1.17) |"
    assert expected in table
