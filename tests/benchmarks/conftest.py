import importlib
import pathlib
import subprocess
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    """`benchmark(name)`: the module benchmarks/NAME.py."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


@pytest.fixture
def run_benchmark():
    """`run_benchmark(name, *args)`: `python benchmarks/NAME.py args` as a process of its own; the finished process."""

    def run(name, *args):
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=300)

    return run


@pytest.fixture
def make_measurement(benchmark):
    """`make_measurement(**figures)`: a measurement as it is in a result file."""

    def make(**figures):
        return benchmark("results").record(
            figures,
            command=["python benchmarks/some.py --rounds=3"],
            machine={"cpu": "Some CPU", "cores": 2, "memory_gib": 15.6, "gpu": None, "os": "Debian 12"},
            versions={"python": "3.11.2", "jax": "0.10.2", "torch": None},
            date="2026-11-29",
            commit="0123456789abcdef",
            dirty=False,
        )

    return make
