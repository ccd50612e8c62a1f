import importlib
import pathlib
import shutil

import numpy as np
import pytest

from qresnet_jax.ship import reference
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed

BENCHMARKS = pathlib.Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def c_export(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("c_export")


@pytest.fixture(scope="module")
def network():
    return read_packed(find_packed("digits_resnet8_w1a2"))


def test_the_copy_with_clocks_computes_the_same_and_times_every_call(c_export, network, tmp_path):
    compiler = shutil.which("gcc") or shutil.which("cc") or pytest.skip("there is no C compiler")
    files = c_files(network)
    files["model.c"], calls = c_export.with_clocks(files["model.c"])
    body = files["model.c"].split("\nvoid model_logits")[1].split("\n}\n")[0]
    assert len(calls) == body.count("    model_") >= len(plan(network, 8, 8).steps)
    assert [name for name, _ in calls][-1] == network.nodes[-1].name
    variant = c_export.Variant("", "-O1", compiler)
    library = c_export.compiled(variant, files, tmp_path)
    image = c_export.pixels(network, 1)
    run, logits = c_export.repeater(library, network)
    run(3)
    np.testing.assert_array_equal(logits, reference.logits(network, image)[0])
    clocks = (c_export.ctypes.c_uint64 * len(calls)).in_dll(library, "model_nanoseconds")
    assert sum(clocks) > 0


def test_tables_are_markdown(c_export):
    assert c_export.table(("a", "b"), (1, "x")) == "| a | b |\n|---|---|\n| 1 | x |"
    assert [c_export.kilobytes(n) for n in (3100, 49123, 188400)] == ["3.1 KB", "49.1 KB", "188 KB"]
    assert [c_export.microseconds(t) for t in (1.024e-4, 8.31e-3)] == ["102 us", "8.3 ms"]


def test_turns_are_taken(c_export):
    turns = []
    runs = {name: lambda n, name=name: turns.append(name) for name in "ab"}
    times = c_export.alternating(runs, 3)
    assert {name: len(x) for name, x in times.items()} == {"a": 3, "b": 3}
    assert turns[-12:] == ["a", "a", "b", "b"] * 3
