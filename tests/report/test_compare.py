"""The comparison's numbers against NumPy, its files, and its command."""

import io
import json
import pathlib
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
from rich.console import Console

from qresnet_jax.report import compare
from qresnet_jax.report.runs import RunRecord

REPO = pathlib.Path(__file__).parents[2]
TESTS = (0.9, 0.95, 0.94)


def make_run(seed, test, epochs=4, validation=0.8, **fields):
    records = (
        [{"step": e, "eval_accuracy": validation + 0.01 * e} for e in range(epochs)] if validation else []
    )
    records.append({"step": epochs} | ({} if test is None else {"test_accuracy": test}))
    return RunRecord(pathlib.Path(f"runs/{seed}"), {"seed": seed, "num_epochs": 4, **fields}, records)


@pytest.fixture
def groups():
    return {
        "depth=8": [make_run(seed, test, validation=0.8 + 0.02 * seed) for seed, test in enumerate(TESTS)],
        "depth=20": [make_run(0, None, epochs=2), make_run(1, 0.5)],
        "no validation": [make_run(7, 0.25, validation=None)],
    }


def test_means_and_deviations_are_those_of_numpy(groups):
    first, second, third = compare.rows(groups)
    best = 100 * (0.83 + 0.02 * np.arange(3))
    tests = 100 * np.array(TESTS)
    assert first == (
        "depth=8",
        "3",
        "0, 1, 2",
        f"{best.mean():.2f} ± {best.std(ddof=1):.2f}",
        f"{tests.mean():.2f} ± {tests.std(ddof=1):.2f}",
        "90.00",
        "4",
    )
    assert second[4:] == ("50.00 (1 of 2 runs)", "50.00", "< 4, 4")
    assert third[3:5] == ("", "25.00")


def test_what_is_not_complete_or_has_failed_is_in_no_mean_beside_complete_runs():
    runs = [make_run(0, 0.5, validation=0.6), make_run(1, None, epochs=2, validation=0.9)]
    failed = make_run(2, None, epochs=1, validation=0.9)._replace(failure="diverged")
    ((_, count, seeds, validation, test, _, epochs),) = compare.rows({"x": [*runs, failed]})
    assert (count, seeds, epochs) == ("3", "0, 1, 2", "4, < 4, diverged")
    assert (validation, test) == ("63.00 (1 of 3 runs)", "50.00 (1 of 3 runs)")
    ((_, _, _, validation, test, _, _),) = compare.rows({"x": [runs[1], failed]})
    assert (validation, test) == ("91.00 (1 of 2 runs)", "")


def test_markdown_has_a_row_for_each_group_and_its_directories(groups):
    text = compare.as_markdown(groups, "x.png")
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(groups) and len({line.count("|") for line in table}) == 1
    assert "(x.png)" in text and "- depth=20: `runs/0`, `runs/1`" in text


def test_the_console_shows_all_cells(groups):
    console = Console(file=io.StringIO(), width=100)
    names = {"act_bits=(2,2,4), init_from=[bold]x": groups["depth=8"]}
    console.print(*compare.as_tables(names))
    shown = console.file.getvalue()
    for cell in ("act_bits=(2,2,4)", "init_from=[bold]x", "93.00 ± 2.65", "90.00"):
        assert cell in shown


def signs_of(seed):
    """Two layers, measured after 10 and after 14 steps."""
    first = {"step": 10, "flips/a": 0.1, "flips/b": 0.3}
    last = {"step": 14, "flips/a": 0.0, "flips/b": 0.1 * seed}
    for kind, value in (("dead_band", 0.2), ("held_back", 0.1), ("never_flipped", 0.5)):
        first |= {f"{kind}/a": 1.0, f"{kind}/b": 1.0}
        last |= {f"{kind}/a": value, f"{kind}/b": value + 0.2}
    return RunRecord(pathlib.Path("x"), {"seed": seed}, [first, {"step": 12, "eval_accuracy": 0.5}, last])


def test_signs_are_summed_over_steps_and_averaged_over_layers_and_seeds(groups):
    groups = groups | {"binary": [signs_of(1), signs_of(3)]}
    assert compare.sign_rows(groups) == [
        ("binary", f"{10 * 0.2 + 4 * (0.05 + 0.15) / 2:.2f}", "30.0", "20.0", "60.0")
    ]
    text = compare.as_markdown(groups, "x.png")
    assert "| binary | 2.40 | 30.0 | 20.0 | 60.0 |" in text and compare.SIGN_NOTE in text
    assert len(compare.as_tables(groups)) == 2


@pytest.fixture
def workdirs(tmp_path):
    for seed in (0, 1):
        workdir = tmp_path / f"run{seed}"
        workdir.mkdir()
        (workdir / "config.json").write_text(json.dumps({"seed": seed, "num_epochs": 1}))
        record = {"step": 1, "eval_accuracy": 0.5, "test_accuracy": 0.5 + 0.1 * seed}
        (workdir / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    return [str(tmp_path / f"run{seed}") for seed in (0, 1)]


def test_the_command_writes_both_files(workdirs, tmp_path, capsys):
    assert compare.main([*workdirs, f"--out={tmp_path / 'sub' / 'all.v1'}"]) == 0
    assert "55.00 ± 7.07" in capsys.readouterr().out
    text = (tmp_path / "sub" / "all.v1.md").read_text()
    assert "55.00 ± 7.07" in text and "(all.v1.png)" in text
    with PIL.Image.open(tmp_path / "sub" / "all.v1.png") as image:
        assert image.size[0] == 800


def test_the_command_refuses_with_one_line(workdirs, tmp_path, capsys):
    assert compare.main([*workdirs, "nowhere", f"--out={tmp_path / 'x'}"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: there is no directory nowhere") and captured.err.count("\n") == 1
    assert not list(tmp_path.glob("x*"))


def test_help_comes_without_heavy_imports():
    code = (
        "import sys\nfrom qresnet_jax.report.compare import main\n"
        "try: main(['--help'])\nexcept SystemExit as done: print(done.code, file=sys.stderr)\n"
        "print([name for name in ('jax', 'numpy', 'matplotlib', 'rich') if name in sys.modules], file=sys.stderr)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, timeout=60
    )
    assert result.stderr.split("\n")[:2] == ["0", "[]"] and "--out" in result.stdout


def test_a_tilde_is_the_home_directory(home, tmp_path):
    for seed in (0, 1):
        run = make_run(seed, 0.9)
        workdir = home / "runs" / str(seed)
        workdir.mkdir(parents=True)
        (workdir / "config.json").write_text(json.dumps(run.fields))
        (workdir / "metrics.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in run.records))
    assert compare.main(["~/runs/0", "~/runs/1", "--out=~/both"]) == 0
    assert {path.name for path in home.iterdir()} == {"runs", "both.md", "both.png"}
