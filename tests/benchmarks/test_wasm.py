import shutil

import pytest

from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed


@pytest.fixture
def networks():
    return {"digits": read_packed(find_packed("digits_mobilenet_w1a2"))}


def test_sizes_are_rendered(benchmark, networks, make_measurement, wasm_tools):
    figures = benchmark("wasm").sizes(networks)
    (row,) = figures["rows"]
    assert 0 < row["packed"] < row["gzip"] < row["wasm"]
    table = benchmark("templates.wasm").sizes({"sizes": make_measurement(**figures)})
    assert "| digits | 17.7 kB |" in table and "`model.js` " in table


def test_times_are_those_of_builds_that_compute_the_same(
    benchmark, networks, make_measurement, wasm_tools, tmp_path, monkeypatch
):
    for program in ("node", "gcc"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    script = benchmark("wasm")
    monkeypatch.setattr(script, "FLAGS", "-O0")  # to compile quickly
    monkeypatch.setattr(script, "WARM_UP", 0.01)
    monkeypatch.setattr(script, "MEASUREMENTS", 2)
    figures = script.times(networks, tmp_path, rounds=1)
    native, vectors, plain = figures["rows"]
    assert native["ratio"] == {"median": 1, "min": 1}
    for row in (vectors, plain):
        assert row["ratio"]["min"] == row["seconds"]["min"] / native["seconds"]["min"]
    table = benchmark("templates.wasm").times({"times": make_measurement(**figures)})
    assert "WebAssembly with vectors" in table and "Node.js " in table
