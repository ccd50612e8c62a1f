import datetime
import json
import math

import pytest


@pytest.fixture
def results(benchmark):
    return benchmark("results")


def test_what_is_saved_is_loaded(results, make_measurement, tmp_path):
    measurement = make_measurement(seconds={"median": 0.1 + 0.2, "rounds": 3}, name="µs", missing=None)
    results.save("some", "1 thread", measurement, tmp_path)
    assert results.load("some", tmp_path)["measurements"] == {"1 thread": measurement}


def test_saving_replaces_one_measurement_and_keeps_the_others(results, make_measurement, tmp_path):
    for key, value in (("a", 1), ("b", 2), ("a", 3)):
        results.save("some", key, make_measurement(value=value), tmp_path)
    found = results.load("some", tmp_path)["measurements"]
    assert {key: one["figures"]["value"] for key, one in found.items()} == {"a": 3, "b": 2}


def test_a_record_of_this_process_is_complete(results, monkeypatch, tmp_path):
    monkeypatch.setattr("sys.argv", ["/somewhere/benchmarks/some.py", "--rounds=3", "--save", str(tmp_path)])
    for name in results.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    measurement = results.measured({"value": 1}, cores=2)
    results.check({"schema": 1, "name": "some", "measurements": {"one": measurement}}, "some")
    assert measurement["command"] == ["python benchmarks/some.py --rounds=3"]
    assert measurement["date"] == datetime.date.today().isoformat()
    assert measurement["machine"]["cores"] == 2 and measurement["machine"]["memory_gib"] > 0
    assert measurement["versions"]["numpy"] == __import__("numpy").__version__


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ([], "python benchmarks/a.py"),
        (["--save"], "python benchmarks/a.py"),
        (["--save", "--rounds=2"], "python benchmarks/a.py --rounds=2"),
        (["--save=/tmp/x", "--rounds", "2"], "python benchmarks/a.py --rounds 2"),
        (["--save", "/tmp/x", "calls", "--only=plain C"], "python benchmarks/a.py calls '--only=plain C'"),
    ],
)
def test_the_command_is_recorded_without_save(results, arguments, expected):
    assert results.command_line(["benchmarks/a.py", *arguments], {}) == expected


def test_settings_of_the_environment_belong_to_the_command(results):
    environment = {"JAX_NUM_CPU_DEVICES": "1", "XLA_FLAGS": "--a --b", "HOME": "/home"}
    line = results.command_line(["a.py"], environment)
    assert line == "JAX_NUM_CPU_DEVICES=1 XLA_FLAGS='--a --b' python benchmarks/a.py"


def test_spread_is_that_of_the_values(results):
    assert results.spread([3, 1, 2, 10]) == {"median": 2.5, "min": 1, "max": 10, "rounds": 4}


def _change(measurement, path, value):
    *groups, last = path
    for name in groups:
        measurement = measurement[name]
    if value is DELETED:
        del measurement[last]
    else:
        measurement[last] = value


DELETED = object()


@pytest.mark.parametrize(
    "path, value, message",
    [
        (("date",), "29 November", "date is '29 November', expected a day such as"),
        (("date",), DELETED, "lacks date"),
        (("colour",), "red", "unknown field colour"),
        (("command",), "python", "command is 'python', expected list"),
        (("command",), [], "expected a list of strings"),
        (("dirty",), 1, "dirty is 1, expected bool or null"),
        (("machine", "cores"), True, "cores is True, expected int or null"),
        (("machine", "gpu"), DELETED, "machine lacks gpu"),
        (("versions", "jax"), 0.1, "the version of jax is 0.1"),
        (("figures", "rows"), [{"seconds": math.nan}], r"figures\.rows\[0\]\.seconds is nan"),
    ],
)
def test_a_wrong_measurement_is_refused_by_name(results, make_measurement, tmp_path, path, value, message):
    measurement = make_measurement(value=1)
    _change(measurement, path, value)
    with pytest.raises(results.ResultError, match=message) as caught:
        results.save("some", "1 thread", measurement, tmp_path)
    assert "some.json, measurement '1 thread'" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "is not JSON"),
        ("[]", r"expected an object with the fields schema, name, measurements, got \[\]"),
        (
            json.dumps({"schema": 2, "name": "some", "measurements": {}}),
            "has schema 2, but this version reads schema 1",
        ),
        (json.dumps({"schema": 1, "name": "other", "measurements": {}}), "says that its name is 'other'"),
        (json.dumps({"schema": 1, "name": "some", "measurements": {}}), "has no measurements"),
    ],
)
def test_a_wrong_file_is_refused(results, tmp_path, text, message):
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(results.ResultError, match=message):
        results.load("some", tmp_path)


def test_a_missing_file_is_named(results, tmp_path):
    with pytest.raises(
        results.ResultError, match=r"there is no result file .*some\.json: run the benchmark with --save"
    ):
        results.load("some", tmp_path)
