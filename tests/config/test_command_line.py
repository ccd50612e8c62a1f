"""The command refuses wrong configs at once and by name, before data is read or a file is made."""

import time

import pytest

UNREADABLE = "--config.data.name=no_such_set"  # reading data would fail with another message
COMMANDS = [
    (["--config.model.depth=21"], 1, ["config.model.depth=21", "6n+2"]),
    (["--config.model.act_bits=(2, 0, 2)"], 1, ["config.model.act_bits=(2, 0, 2)", "1 to 8 bits"]),
    (["--config.batch_size=100"], 8, ["config.batch_size=100", "multiple of the 8 devices"]),
    (["--config.optim.hysteresis.threshold=-0.1"], 1, ["config.optim.hysteresis.threshold=-0.1", ">= 0"]),
    (["--config.optim.learning_rate=-1"], 1, ["config.optim.learning_rate=-1", "> 0"]),
    (["--config.model.activation=relu"], 1, ["config.model.activation='relu'", "pact", "none"]),
    (["--config.model.act_bits[1]=0"], 1, ["model.act_bits", "given whole"]),
    (
        ["--config.model.bitz=2"],
        1,
        ["a field given as --config.FIELD does not exist: model.bitz. Did you mean"],
    ),
    (["--config.modle.depth=8"], 1, ["modle.depth. Did you mean model.depth instead"]),
    (["--config.optim.hysteresis.treshold=1"], 1, ["Did you mean optim.hysteresis.threshold instead"]),
    (["--config.depth=8"], 1, ["Did you mean model.depth instead of depth?"]),
    (["--config.momentun=0.8"], 1, ["Did you mean optim.momentum instead of momentun?"]),
    (["--config.model.act_bits.0=2"], 1, ["Did you mean model.act_bits instead"]),
    (["--config.optim.lr=0.1"], 1, ["optim.lr; the fields are optim.", "optim.learning_rate"]),
    (["--config.model.depth=twenty"], 1, ["config.model.depth", "twenty"]),
    (["--mode=fly"], 1, ["mode", "fly", "train", "eval", "prepare_data"]),
    (["--mode=export", "--config.distributed.auto=True"], 1, ["no use in --mode=export", "leave it out"]),
    (["--config.distributed.auto=True"], 1, ["auto=True: nothing was detected", "SLURM", "coordinator"]),
    (["--nonsense=1"], 1, ["nonsense"]),
    (["stray"], 1, ["stray"]),
]


def short_error(result):
    """The message of a user's mistake: on standard error, without a traceback."""
    assert result.returncode not in (0, None) and "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith(("error:", "FATAL"))]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize(("flags", "devices", "texts"), COMMANDS, ids=[c[0][0] for c in COMMANDS])
def test_main_refuses_before_it_reads_data_or_makes_a_file(run_main, tmp_path, flags, devices, texts):
    workdir = tmp_path / "run"
    arguments = ("--config=configs/digits.py", f"--workdir={workdir}", UNREADABLE, *flags)
    message = short_error(run_main(*arguments, devices=devices))
    assert all(text in message for text in texts), message
    assert not workdir.exists()


def test_main_takes_valid_overrides_and_then_meets_the_data_set(run_main, tmp_path):
    flags = ["--config.model.stream_fraction_bits=7", "--config.model.act_bits=(1, 32, 8)", UNREADABLE]
    result = run_main("--config=configs/digits.py", f"--workdir={tmp_path}/run", *flags)
    assert "data.name='no_such_set' is not known" in short_error(result)


@pytest.mark.parametrize("mode", ["train", "prepare_data"])
def test_missing_data_is_answered_within_5_seconds_by_how_to_get_it(run_main, tmp_path, mode):
    (tmp_path / "raw").mkdir()
    places = [f"--config.data.data_dir={tmp_path}/data", f"--config.data.raw_dir={tmp_path}/raw"]
    began = time.monotonic()
    flags = [
        "--config=configs/digits.py",
        "--config.data.name=mnist",
        f"--workdir={tmp_path}/run",
        f"--mode={mode}",
    ]
    message = short_error(run_main(*flags, *places))
    assert (
        mode == "train" or time.monotonic() - began < 5
    )  # training imports JAX first, which may take as long
    assert str(tmp_path / "raw") in message and "train-images-idx3-ubyte" in message


@pytest.mark.parametrize("mode", ["train", "eval", "prepare_data"])
def test_main_without_a_config_says_how_to_give_one(run_main, mode):
    assert "--config=digits" in short_error(run_main(f"--mode={mode}"))


def test_main_with_a_config_file_that_is_not_there_names_it(run_main):
    assert "configs/none.py" in short_error(run_main("--config=configs/none.py"))


def test_help_exits_with_0_and_names_the_flags(run_main):
    result = run_main("--help")
    assert result.returncode == 0
    assert all(flag in result.stdout for flag in ("--config", "--workdir", "--mode", "prepare_data"))
