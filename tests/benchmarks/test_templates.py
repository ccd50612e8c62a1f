import pytest


@pytest.fixture
def cells(benchmark):
    return benchmark("templates.cells")


def test_cells_have_units(cells):
    assert [cells.duration(t) for t in (1.024e-4, 8.31e-3, 0.4884, 157.2)] == [
        "102 µs",
        "8.3 ms",
        "0.488 s",
        "157 s",
    ]
    assert [cells.size(n) for n in (184, 3100, 49123, 188400, 1_089_896)] == [
        *("0.18 kB", "3.1 kB", "49.1 kB", "188 kB", "1.09 MB"),
    ]
    assert [cells.ratio(x) for x in (0.0933, 1, 2.24, 18.94, 140)] == ["0.093", "1.0", "2.2", "18.9", "140"]
    assert cells.percent(0.92503) == "92.50 %" and cells.percent(0.449, 0) == "45 %"
    assert cells.day("2026-11-29") == "29 November 2026"
    assert [cells.several(n, "thread") for n in (1, 2, 1000)] == ["1 thread", "2 threads", "1,000 threads"]


def test_tables_are_markdown(cells):
    assert cells.markdown(("a", "b"), (1, "x")) == "| a | b |\n|---|---|\n| 1 | x |"


def test_accuracies_show_the_deviation_of_several_seeds(cells):
    assert cells.accuracy({"mean": 0.9, "sd": None}) == "90.00 %"
    assert cells.accuracy({"mean": 0.9, "sd": 0.001}) == "90.00 ± 0.10 %"
    assert cells.accuracy(None) == "not measured"


def test_provenance_says_when_by_what_where_with_what(benchmark, make_measurement):
    provenance = benchmark("templates.measurements").provenance
    one = make_measurement(value=1)
    expected = (
        "Measured on 29 November 2026 by `python benchmarks/some.py --rounds=3`; 2 cores of Some CPU, 16 GiB of memory, "
        "Debian 12, JAX 0.10.2, commit 0123456."
    )
    assert provenance([one], ("jax", "torch")) == expected
    assert provenance([one, make_measurement(value=2)], ("jax", "torch")) == expected
    dirty = {**one, "dirty": True}
    assert provenance([dirty], ("jax",)) == expected.replace("0123456", "0123456 with uncommitted changes")
    other = {**one, "command": ["another"]}
    assert "by `python benchmarks/some.py --rounds=3` and `another`;" in provenance([one, other])
    later = {**one, "date": "2026-12-01"}
    assert provenance([one, later], ("jax",)) == f"{expected} {expected.replace('29 November', '1 December')}"


def test_transcribed_figures_say_so(benchmark, make_measurement):
    old = {**make_measurement(value=1), "source": "transcribed from README.md at commit bf53072"}
    text = benchmark("templates.measurements").provenance([old], about="Speed")
    assert text.startswith(
        "Speed: transcribed from README.md at commit bf53072, measured on 29 November 2026 by `"
    )


def test_the_summary_takes_the_rows_that_validation_chooses(benchmark, make_measurement):
    def run(network, epochs, validation, test):
        stats = [{"mean": x, "sd": None, "worst": x, "each": [x]} for x in (validation, test)]
        return make_measurement(network=network, epochs=epochs, validation=stats[0], test=stats[1], seeds=[0])

    rows = {
        "a": run("W1A2", 6, 0.90, 0.95),
        "b": run("W1A2", 25, 0.93, 0.92),
        "c": run("float", 25, 0.94, 0.93),
        "d": run("float", 100, 0.99, 0.99),
    }
    best = benchmark("templates.accuracy").best
    assert best(rows, "W1A2") is rows["b"]["figures"]
    assert best(rows, "float") is rows["c"]["figures"]
    assert best({"d": rows["d"]}, "W1A2") is None


def test_the_figures_of_a_single_prediction_have_units(benchmark, make_measurement):
    times = {
        which: {"median": t, "min": t, "max": t, "rounds": 1}
        for which, t in (("c", 0.2), ("numpy", 0.31), ("bare", 0.1))
    }
    one = make_measurement(**times, bytes={"numpy": 71_000_000, "safetensors": 1_300_000})
    found = benchmark("templates.speed").prediction_figures({"prediction": one})
    assert found == {"c": "0.20 s", "numpy": "0.31 s", "bare": "0.10 s", "environment": "72.3 MB"}
