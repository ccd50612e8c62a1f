"""`main.py` as a person runs it, with a packed file instead of a run."""

import pytest
from PIL import Image

DIGITS = ("--config=configs/digits.py", "--config.packed=digits_resnet8_w1a2")


def test_a_packed_file_is_evaluated(run_main):
    result = run_main(*DIGITS, "--mode=eval")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "digits_resnet8_w1a2, integer network: test accuracy 98.33 %\n"


def test_a_packed_file_classifies_pictures(run_main, tmp_path):
    Image.new("L", (30, 20), 0).save(tmp_path / "black.png")
    result = run_main(*DIGITS, "--mode=predict", f"--config.predict.images={tmp_path}/black.png")
    assert result.returncode == 0, result.stderr
    assert "(30x20 L -> middle 20x20 -> 8x8 L): " in result.stdout and result.stdout.count("%") == 3


def test_a_packed_file_is_reported_without_a_run(run_main, tmp_path):
    result = run_main(*DIGITS, "--mode=report", f"--workdir={tmp_path}/none")
    assert result.returncode == 0, result.stderr
    assert "16,627 as a packed file" in result.stdout
    assert not (tmp_path / "none").exists()


def test_without_a_place_for_the_compile_cache_it_works_and_says_so(run_main, tmp_path):
    (tmp_path / "file").write_text("no directory")
    places = {"XDG_CACHE_HOME": str(tmp_path / "file"), "JAX_COMPILATION_CACHE_DIR": ""}
    result = run_main(*DIGITS, "--mode=report", **places)
    assert result.returncode == 0, result.stderr
    assert "compiled programs are not kept: " in result.stdout and "set XDG_CACHE_HOME" in result.stdout


@pytest.mark.parametrize("format, count", [("packed", 1), ("c", 3), ("onnx", 1), ("stablehlo", 1)])
def test_a_packed_file_is_exported(run_main, tmp_path, format, count):
    workdir = tmp_path / "run"
    result = run_main(*DIGITS, "--mode=export", f"--config.export.format={format}", f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("wrote ") == count
    assert sum(path.is_file() for path in workdir.rglob("*")) == count


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--mode=train"], "--config.packed has no use in --mode=train"),
        (
            ["--mode=export", "--config.export.format=qonnx"],
            "is written from a trained run, not from a packed",
        ),
        (["--mode=eval", "--config.packed=nonsense"], "the zoo, which has: digits_resnet8_w1a2"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(run_main, tmp_path, flags, message):
    result = run_main(*DIGITS, *flags, f"--workdir={tmp_path}/run")
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
