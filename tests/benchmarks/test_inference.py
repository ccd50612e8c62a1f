import pytest

from qresnet_jax.ship.costs import network_table
from qresnet_jax.ship.load import load_packed, zoo

ENGINES = {"onnxruntime fp32", "onnxruntime int8", "numpy", "jax", "c"}


@pytest.mark.slow
def test_a_run_measures_all_engines_and_saves_them(run_benchmark, benchmark, compiler, tmp_path):
    pytest.importorskip("onnxruntime")
    arguments = ("--rounds=2", "--batches=2", "--packed=digits_resnet8_w1a2", f"--save={tmp_path}")
    done = run_benchmark("inference", *arguments)
    assert done.returncode == 0, done.stderr
    (found,) = benchmark("results").load("inference", tmp_path)["measurements"].values()
    rows = found["figures"]["rows"]
    assert {(row["engine"], row["batch"]) for row in rows} == {(engine, 2) for engine in ENGINES}
    for row in rows:
        assert row["seconds"]["rounds"] == 2 and 0 < row["seconds"]["min"] <= row["seconds"]["max"]
        assert row["process_bytes"] > row["call_bytes"] >= 0
        assert row["engine"] != "onnxruntime fp32" or row["ratio"]["median"] == 1
    macs = sum(layer.macs for layer in network_table(load_packed("digits_resnet8_w1a2", "numpy").network))
    assert macs - 1000 < found["figures"]["limits"]["multiplications"] < macs  # without the classifier
    table = benchmark("templates").TABLES["inference"].render({"one": found})
    assert "\n| 2 | " in table and "*digits_resnet8_w1a2, 8x8x1, 1 thread: time of one image" in table


def test_ratios_are_those_of_the_rounds(benchmark):
    row = benchmark("inference").row("jax", 16, [1.0, 2.0, 4.0], [2.0, 2.0, 2.0], 2**30, 2**20)
    assert row["ratio"] == {"median": 1.0, "min": 0.5, "max": 2.0, "rounds": 3}
    assert row["seconds"]["median"] == 2.0


def test_all_networks_are_measured_on_one_thread_and_on_all_cores_unless_one_is_named(benchmark, monkeypatch):
    inference = benchmark("inference")
    monkeypatch.setattr(inference, "processors", lambda: 3)
    assert inference.cases("", None) == {name: [1, 3] for name in ("", *zoo())}
    assert inference.cases("a.safetensors", None) == {"a.safetensors": [1]}
    assert inference.cases("", 2) == {"": [2]}
    monkeypatch.setattr(inference, "processors", lambda: 1)
    assert inference.cases("", None) == {name: [1] for name in ("", *zoo())}


def test_several_measurements_are_told_apart_and_the_memory_is_that_of_the_first(benchmark, make_measurement):
    row = benchmark("inference").row("c", 128, [1.0], [2.0], 2**30, 2**20)
    runs = {
        name: make_measurement(network=name, threads=threads, limits={}, rows=[row])
        for name, threads in (("large", 1), ("small", 2))
    }
    tables = benchmark("templates").TABLES
    table = tables["inference"].render(runs)
    assert "\n| large, 1 thread | 128 | " in table and "\n| small, 2 threads | 128 | " in table
    assert tables["inference_memory"].render(runs).count("1024 MiB") == 1
