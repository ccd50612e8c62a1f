"""The command as a person runs it: its names, its configs, and its modes with a packed file instead of a run."""

import pathlib
import re
import shutil
import sys
import sysconfig

import pytest
from PIL import Image

from qresnet_jax.commands import COMMANDS
from qresnet_jax.ship.load import zoo
from qresnet_jax.system.config_files import shipped_configs

REPO = pathlib.Path(__file__).parents[1]
PACKED = "--config.packed=digits_resnet8_w1a2"
DIGITS = ("--config=digits", PACKED)

# The ways to call the command; `qresnet` is the console script of the installed package.
QRESNET = (pathlib.Path(sysconfig.get_path("scripts")) / "qresnet",)
MODULE = (sys.executable, "-m", "qresnet_jax")
MAIN = (sys.executable, "main.py")


def test_the_three_ways_to_call_the_command_give_the_same_help(run_main):
    helps = [run_main("--help", program=program) for program in (QRESNET, MODULE, MAIN)]
    assert [result.returncode for result in helps] == [0, 0, 0], [result.stderr for result in helps]
    assert len({result.stdout for result in helps}) == 1
    assert helps[0].stdout.startswith("Trains ResNets") and helps[0].stderr == ""


def test_help_names_every_mode_with_what_it_writes_and_an_example(run_main):
    text = run_main("--help").stdout
    for mode, command in COMMANDS.items():
        entry = re.search(rf"^  {mode}  .*?(?:\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
        words = " ".join(entry.group().split())
        assert command.does in words and command.writes in words
        assert all(f"qresnet {example}" in words for example in command.examples)
    assert max(map(len, text.splitlines())) <= 110


@pytest.mark.parametrize(
    "command",
    [
        (*QRESNET, "sweep"),
        (*MODULE, "sweep"),
        (sys.executable, "-m", "qresnet_jax.sweep"),
        (*MAIN, "--mode=sweep"),
    ],
    ids=["qresnet", "module", "sweep", "mode"],
)
def test_a_sweep_is_begun_in_four_ways_and_refused_before_anything_slow(run_main, tmp_path, command):
    flags = (
        "--config=digits",
        "--seeds=2",
        "--grid",
        "config.optim.learning_rate=0.1,0.1",
        f"--workdir={tmp_path}/x",
    )
    result = run_main(*flags, program=command, PYTHONPATH=str(REPO))
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr == (
        "error: --grid config.optim.learning_rate: the value 0.1 is given twice: leave one of them out\n"
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["sweep", "--config.seed=1", "--seeds=2"], "the seed is given both by --seeds and by --config.seed"),
        (["--seeds=2"], "--seeds has no use in --mode=train: leave it out, or begin with qresnet sweep"),
        (["eval", "--grid", "config.seed=1"], "--grid has no use in --mode=eval"),
        (["sweep", "--mode=eval"], "sweep is given as the mode, but also --mode=eval: leave one of them out"),
        (["sweep", "train"], "sweep is given as the mode, but also train"),
        (["sweeps"], "unexpected argument 'sweeps': options begin with --"),
        (["sweep", PACKED], "--config.packed has no use in --mode=sweep"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_in_a_line(run_main, flags, message):
    result = run_main("--config=digits", *flags)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1


def test_the_flags_of_the_libraries_are_listed_by_helpfull(run_main):
    result = run_main("--helpfull")
    assert result.returncode == 0 and "--workdir" in result.stdout and "absl.app:" in result.stdout


@pytest.mark.parametrize(
    "form", [["--config={}"], ["--config", "{}"], ["-config={}"]], ids=["joined", "apart", "one dash"]
)
@pytest.mark.parametrize("name", ["digits", "configs/digits.py", str(REPO / "configs" / "digits.py")])
def test_a_config_is_named_or_given_as_a_path(run_main, form, name):
    flags = [part.format(name) for part in form]
    # The message comes after the config has been read, and before anything slow.
    result = run_main(*flags, "--mode=train", PACKED)
    assert result.returncode == 2
    assert result.stderr == "error: --config.packed has no use in --mode=train: leave it out\n"


def test_a_shipped_config_is_found_in_any_directory_and_its_run_is_named_after_it(run_main, tmp_path):
    result = run_main(*DIGITS, "--mode=export", cwd=tmp_path, program=MODULE, PYTHONPATH=str(REPO))
    assert result.returncode == 0, result.stderr
    assert [path.relative_to(tmp_path) for path in tmp_path.rglob("*.safetensors")] == [
        pathlib.Path("runs/digits/model.safetensors")
    ]


@pytest.mark.parametrize("name", ["digit", "configs/none.py", "configs"])
def test_a_wrong_config_gives_one_line_with_the_names_of_all_that_ship(run_main, name):
    result = run_main(f"--config={name}")
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith(f"error: there is no config file {name}: ")
    assert result.stderr.count("\n") == 1 and result.stderr.endswith("as in --config=digits\n")
    assert ", ".join(shipped_configs()) in result.stderr


@pytest.mark.parametrize("error", ["AttributeError", "KeyError", "IndexError"])
def test_an_error_of_a_config_file_is_none_of_the_flags(run_main, tmp_path, error):
    """ml_collections answers a --config.FIELD that does not exist by an error of these kinds."""
    path = tmp_path / "mine.py"
    path.write_text(f"def get_config():\n    raise {error}('mistake')\n")
    result = run_main(f"--config={path}", "--config.seed=1")
    assert result.returncode == 2
    assert re.fullmatch(rf"error: {path}, line 2: {error}: '?mistake'?\n", result.stderr), result.stderr


def test_a_run_of_a_config_with_an_argument_is_named_after_the_file(run_main, tmp_path):
    (tmp_path / "mine.py").write_text(
        "from qresnet_jax import load_config\n\ndef get_config(name):\n    return load_config(name)\n"
    )
    flags = ("--config=mine.py:digits", PACKED, "--mode=export")
    result = run_main(*flags, cwd=tmp_path, program=MODULE, PYTHONPATH=str(REPO))
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "runs" / "mine" / "model.safetensors").exists()


@pytest.mark.parametrize("flags", [[], ["--config="]])
def test_without_a_config_the_message_says_how_to_give_one(run_main, flags):
    result = run_main(*flags)
    assert result.returncode == 2 and "--config=digits" in result.stderr and result.stderr.count("\n") == 1


def test_a_packed_file_is_evaluated(run_main):
    result = run_main(*DIGITS, "--mode=eval")
    assert result.returncode == 0, result.stderr
    assert result.stdout == "digits_resnet8_w1a2, integer network: test accuracy 98.33 %\n"


def test_a_packed_file_classifies_pictures_and_a_tilde_is_the_home_directory(run_main, tmp_path):
    Image.new("L", (30, 20), 0).save(tmp_path / "black.png")
    shutil.copy(REPO / "configs" / "digits.py", tmp_path / "mine.py")
    shutil.copy(zoo()["digits_resnet8_w1a2"], tmp_path / "net")
    flags = ("--config=~/mine.py", "--config.packed=~/net", "--config.predict.images=~/black.png")
    result = run_main("--mode=predict", *flags, HOME=str(tmp_path))
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


@pytest.mark.parametrize("format, count", [("packed", 1), ("c", 3), ("onnx", 1)])
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
            "needs a trained run, not a packed file",
        ),
        (["--mode=eval", "--config.packed=nonsense"], "the zoo, which has cifar10_jpeg_resnet20_w1a2"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(run_main, tmp_path, flags, message):
    result = run_main(*DIGITS, *flags, f"--workdir={tmp_path}/run")
    assert result.returncode == 2
    assert message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "run").exists()
