import shutil

import numpy as np
import pytest

from qresnet_jax.ship import reference
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed


@pytest.fixture
def c_export(benchmark):
    return benchmark("c_export")


@pytest.fixture(scope="module")
def network():
    return read_packed(find_packed("digits_resnet8_w1a2"))


@pytest.mark.parametrize("many", [False, True])
def test_the_copy_with_clocks_computes_the_same_and_times_every_call(c_export, network, tmp_path, many):
    compiler = shutil.which("gcc") or shutil.which("cc") or pytest.skip("there is no C compiler")
    files = c_files(network, many=many)
    steps = len(plan(network, 8, 8).steps)
    files["model.c"], calls = c_export.with_clocks(files["model.c"])
    if many:
        assert len(calls) >= 2 * steps and {"copy", "levels_64 many"} <= {function for _, function in calls}
    else:
        body = files["model.c"].split("\nvoid model_logits")[1].split("\n}\n")[0]
        assert len(calls) == body.count("    model_") >= steps
        assert [name for name, _ in calls][-1] == network.nodes[-1].name
    variant = c_export.Variant("", "-O0", compiler)
    library = c_export.compiled(variant, files, tmp_path)
    run, logits = c_export.repeater(library, network)
    run(3)
    images = c_export.pixels(network, 8 if many else 1)
    np.testing.assert_array_equal(logits, reference.logits(network, images))
    clocks = (c_export.ctypes.c_uint64 * len(calls)).in_dll(library, "model_nanoseconds")
    assert sum(clocks) > 0


def test_turns_are_taken(c_export):
    turns = []
    runs = {name: lambda n, name=name: turns.append(name) for name in "ab"}
    times = c_export.alternating(runs, 3)
    assert {name: len(x) for name, x in times.items()} == {"a": 3, "b": 3}
    assert turns[-12:] == ["a", "a", "b", "b"] * 3


@pytest.mark.parametrize("what", ["sizes", "times", "calls"])
def test_figures_are_rendered(
    c_export, benchmark, network, make_measurement, compiler, tmp_path, monkeypatch, what
):
    variants = [
        c_export.Variant("`small`", "-O0", compiler, "small", "digits"),
        c_export.Variant("`small`", "-O1", compiler, "small", "digits"),
    ]
    networks = {"digits": network}
    if what == "sizes":
        if compiler != "gcc":
            pytest.skip("the stack is measured by gcc")
        monkeypatch.setattr(c_export, "TARGETS", ("gcc -O0", "no-such-gcc -O0"))
        figures = c_export.sizes(networks, tmp_path)
        assert all(0 < row["constants"] < row["text"]["gcc -O0"] for row in figures["rows"])
        small, fast = figures["rows"]
        assert small["buffer"] < fast["buffer"] and small["constants"] < fast["constants"]
    elif what == "times":
        pytest.importorskip("onnxruntime")
        figures = c_export.times(networks, variants, tmp_path, rounds=1)
        peer, *ours = figures["rows"]
        assert peer["ratio"] == {"median": 1, "min": 1} and len(ours) == 2
        for row in ours:
            assert row["ratio"]["median"] == peer["seconds"]["median"] / row["seconds"]["median"]
    else:
        fast = c_export.Variant("`fast`", "-O0 -DMODEL_VECTOR=8", compiler, "fast", "digits")
        figures = c_export.calls(networks, fast, tmp_path, rounds=1)
        assert sum(figures["parts"].values()) == pytest.approx(1)
        assert figures["seconds"] == pytest.approx(sum(row["seconds"] for row in figures["calls"]))
    render = getattr(benchmark("templates.c_code"), what)
    assert "digits" in render({what: make_measurement(**figures)}) or what == "calls"


def test_every_call_of_a_network_belongs_to_a_part(c_export, network):
    files = c_files(network)
    _, calls = c_export.with_clocks(files["model.c"])
    shares = c_export.shares([{"node": node, "function": f, "seconds": 1.0} for node, f in calls])
    assert {"stem", "quantizers of the stream", "pooling and classifier"} < shares.keys()
    assert shares["pooling and classifier"] == pytest.approx(
        3 / len(calls)
    )  # the mean, the numbers of its image in a row, and the classifier, nothing else
