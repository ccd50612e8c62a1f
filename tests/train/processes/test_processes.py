"""Several processes train one network: they agree, stop together, end together, and leave one run."""

import contextlib
import re
import shutil
import signal
import time

import pytest

from qresnet_jax.system.config_files import load_config
from qresnet_jax.train.evaluator import evaluate_checkpoint
from tests.train.processes.groups import FLAGS, Group, free_port, recorded
from tests.train.test_interrupted_runs import checkpoint_arrays, complete, metrics

STEPS = 63  # 3 epochs of 21
TIMEOUT = 5  # seconds
QUICKLY = f"--config.distributed.timeout={TIMEOUT}"


def digits():
    config = load_config("configs/digits.py")
    config.num_epochs, config.log_every_steps = 3, 5
    return config


def assert_one_error(group, index, *texts):
    """One line, which names its process unless that is process 0."""
    said = group.errors[index]
    assert said.count("\n") == 1, group.logs()
    assert said.startswith(f"error: process {index}: " if index else "error: "), group.logs()
    for text in texts:
        assert text in said, group.logs()


def assert_same_run(workdir, other):
    """To the bit: on CPUs the devices' gradients are added in one order, whichever processes the devices belong to.

    The other run must come from a process with up to 4 devices: among 8, XLA divides sums over more threads.
    """
    assert metrics(workdir) == metrics(other)
    got, want = checkpoint_arrays(workdir), checkpoint_arrays(other)
    assert got.keys() == want.keys()
    for step in want:
        assert got[step].keys() == want[step].keys()
        for path, x in want[step].items():
            assert got[step][path].tobytes() == x.tobytes(), (step, path)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 2 x 2 devices that lost a process, and was then finished under SLURM's variables."""
    place = tmp_path_factory.mktemp("processes")
    workdir, groups = place / "run", {}
    flags = [f"--workdir={workdir}", QUICKLY, "--config.checkpoint_every_epochs=1"]
    with Group(place / "killed", 2, *flags) as groups["killed"]:
        groups["killed"].wait(lambda: recorded(workdir) >= 26)
        groups["killed"].running[1].kill()
        killed = time.monotonic()
        groups["killed"].wait()
        seconds = time.monotonic() - killed
    with Group(place / "finished", 2, *flags, slurm=True) as groups["finished"]:
        groups["finished"].wait()
    return workdir, groups, seconds


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run of 2 x 2 devices, one of whose processes got a SIGTERM, and these processes."""
    place = tmp_path_factory.mktemp("stopped")
    with Group(place / "logs", 2, f"--workdir={place / 'run'}", QUICKLY) as group:
        group.wait(lambda: recorded(place / "run") >= 5)
        group.running[1].send_signal(signal.SIGTERM)
        group.wait()
    return place / "run", group


@pytest.fixture(scope="module")
def alone(run_main, tmp_path_factory):
    """The same run on 4 devices of one process."""
    workdir = tmp_path_factory.mktemp("alone") / "run"
    result = run_main(*FLAGS, f"--workdir={workdir}", devices=4)
    assert result.returncode == 0, result.stderr
    return workdir


def test_a_killed_process_ends_the_others_with_one_error_and_a_restart_goes_on(run):
    _, groups, seconds = run
    group = groups["killed"]
    assert group.status == {0: 2, 1: -signal.SIGKILL}, group.logs()
    assert_one_error(
        group, 0, "process 1 ended or cannot be reached", f"for {TIMEOUT} s", "start all processes"
    )
    assert seconds < 4 * TIMEOUT
    assert re.search(r"continuing from step (\d+) of 63", groups["finished"].said[0])


def test_only_process_0_talks_and_writes(run):
    workdir, groups, _ = run
    for name, group in groups.items():
        assert group.said[1] == "", group.logs()
        assert group.errors[1] == "" and (name == "killed" or group.errors[0] == ""), group.logs()
    assert groups["finished"].status == {0: 0, 1: 0}, groups["finished"].logs()
    said = groups["finished"].said[0]
    assert "devices: 4 x cpu of 2 processes" in said and said.count("done: test accuracy") == 1
    assert (workdir / "report.md").exists()
    assert (workdir / "train.log").read_text().count("done: test accuracy") == 1
    steps = [line["step"] for line in metrics(workdir)]
    assert steps == [s for s in range(1, STEPS + 1) if s % 21 in (5, 10, 15, 20, 0)]


def test_two_processes_with_two_devices_each_learn_what_one_with_four_learns(run, alone):
    assert_same_run(run[0], alone)


@pytest.mark.slow
def test_one_process_evaluates_what_several_have_saved(run):
    workdir = run[0]
    found = evaluate_checkpoint(digits(), workdir)
    last = metrics(workdir)[-1]
    assert found["test_loss"] == last["test_loss"] and found["test_of_step"] == last["test_of_step"]


# ---- Starting -----------------------------------------------------------------------------------------------


def test_a_process_that_never_comes_is_named_by_all_others(tmp_path):
    seconds = 3
    flags = (f"--workdir={tmp_path / 'run'}", f"--config.distributed.start_timeout={seconds}", QUICKLY)
    with Group(tmp_path / "logs", 3, *flags, "--config.batch_size=96", which=(0, 2), devices=1) as group:
        assert group.wait() == {0: 2, 2: 2}
        for index in (0, 2):
            assert_one_error(group, index, f"process 1 did not come within {seconds} s")
    assert not (tmp_path / "run").exists()


# ---- Rarer, in real processes -------------------------------------------------------------------------------


def short(tmp_path, count, *flags, **options):
    return Group(tmp_path / "logs", count, f"--workdir={tmp_path / 'run'}", QUICKLY, *flags, **options)


@pytest.mark.slow
def test_processes_with_other_configs_are_refused_by_the_field(tmp_path):
    with short(tmp_path, 2, each={1: ["--config.optim.momentum=0.8"]}) as group:
        assert group.wait() == {0: 2, 1: 2}
        text = "config.optim.momentum is '0.8' in process 1, but '0.9' in process 0: start all processes with the same"
        assert_one_error(group, 0, f"process 1 has ended: {text}")
        assert_one_error(group, 1, text)


@pytest.mark.slow
def test_processes_with_other_workdirs_are_refused(tmp_path):
    other = tmp_path / "other"
    with short(tmp_path, 2, each={1: [f"--workdir={other}"]}) as group:
        assert group.wait() == {0: 2, 1: 2}
        for index in (0, 1):
            assert_one_error(
                group, index, f"the workdir {other} of process 1 is not {tmp_path / 'run'} of process 0"
            )


@pytest.mark.slow
def test_two_processes_with_one_number_are_refused(tmp_path):
    port = free_port()
    with short(tmp_path, 2, port=port) as group:
        group.wait(lambda: recorded(tmp_path / "run") >= 5)
        with Group(
            tmp_path / "more",
            2,
            f"--workdir={tmp_path / 'run'}",
            "--config.distributed.start_timeout=5",
            QUICKLY,
            port=port,
            which=(1,),
        ) as more:
            group.wait()
            more.wait()
        for one, index in ((group, 0), (group, 1)):
            assert_one_error(one, index, "started twice, or restarted")


@pytest.mark.slow
def test_another_number_of_processes_is_refused(tmp_path):
    port = free_port()
    flags = [f"--workdir={tmp_path / 'run'}", QUICKLY, "--config.distributed.start_timeout=8"]
    with (
        Group(tmp_path / "two", 2, *flags, port=port, which=(0,), devices=1) as two,
        Group(tmp_path / "four", 4, *flags, port=port, which=(3,), devices=1) as four,
    ):
        four.wait()
        two.wait()
        assert_one_error(four, 3, "process 0 does not expect a process 3")
        assert_one_error(two, 0, "process 1 did not come within 8 s")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_ends_all_with_one_message(tmp_path):
    with short(tmp_path, 2, "--config.optim.learning_rate=1e30", "--config.model.weight_bits=32") as group:
        assert group.wait() == {0: 2, 1: 2}
        assert_one_error(group, 0, "not finite at step")
        assert group.errors[1] == ""


@pytest.mark.slow
def test_a_missing_data_set_ends_all(tmp_path):
    flags = [
        "--config.data.name=mnist",
        f"--config.data.data_dir={tmp_path}",
        f"--config.data.raw_dir={tmp_path}",
    ]
    with short(tmp_path, 2, *flags) as group:
        assert group.wait() == {0: 2, 1: 2}
        assert_one_error(group, 0, "mnist")
        assert_one_error(group, 1, "process 0 has ended: ", "mnist")


@pytest.mark.slow
def test_sigterm_to_one_process_stops_all_at_one_step_with_everything_saved(stopped):
    workdir, group = stopped
    assert group.status == {0: 0, 1: 0}, group.logs()
    assert group.said[1] == group.errors[1] == group.errors[0] == "", group.logs()
    step = int(re.search(r"stopped by SIGTERM at step (\d+); everything is saved", group.said[0])[1])
    assert 5 <= step < STEPS and max(complete(workdir)) == step


@pytest.mark.slow
def test_one_process_goes_on_with_what_several_have_saved(stopped, alone, run_main, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "run")
    result = run_main(*FLAGS, f"--workdir={tmp_path / 'run'}", devices=4)
    assert result.returncode == 0 and "continuing from step" in result.stdout, result.stderr
    assert_same_run(tmp_path / "run", alone)


def kill(tmp_path, index, condition):
    began = time.time()
    with short(tmp_path, 2, "--config.checkpoint_every_epochs=1") as group:
        group.wait(lambda: condition(began))
        group.running[index].kill()
        killed = time.monotonic()
        group.wait()
        assert time.monotonic() - killed < 4 * TIMEOUT
        assert group.status[index] == -signal.SIGKILL and group.status[1 - index] == 2
        assert_one_error(group, 1 - index, f"process {index}", "ended or cannot be reached")


@pytest.mark.slow
def test_the_killed_coordinator_and_kills_inside_saves_change_nothing(tmp_path, alone):
    workdir = tmp_path / "run"

    def being_saved(began):
        """Whether there is a checkpoint that is not complete, and not what an earlier kill has left."""
        with contextlib.suppress(FileNotFoundError):
            paths = [path for path in (workdir / "checkpoints").iterdir() if not path.name.isdigit()]
            return any(path.stat().st_mtime > began + 1 for path in paths)

    kill(tmp_path, 0, being_saved)
    kill(tmp_path, 1, being_saved)
    kill(tmp_path, 0, lambda _: complete(workdir) and recorded(workdir) > max(complete(workdir)))
    with short(tmp_path, 2, "--config.checkpoint_every_epochs=1") as group:
        assert group.wait() == {0: 0, 1: 0}
    assert_same_run(workdir, alone)


@pytest.mark.slow
def test_four_processes_go_on_with_what_two_have_saved(tmp_path, alone, stopped):
    shutil.copytree(stopped[0], tmp_path / "run")
    with short(tmp_path, 4, devices=1) as group:
        assert set(group.wait().values()) == {0}
    assert_same_run(tmp_path / "run", alone)
    with short(tmp_path, 2, "--mode=eval") as group:
        assert set(group.wait().values()) == {0}
        assert group.said[0].count("test accuracy") == 1 and group.said[1] == group.errors[1] == ""
        want = metrics(alone)[-1]
        assert (
            f"test accuracy {100 * want['test_accuracy']:.2f} %, loss {want['test_loss']:.4f}"
            in group.said[0]
        )


@pytest.mark.slow
def test_two_float_processes_evaluate_like_one(tmp_path):
    flags = ["--config.model.weight_bits=32", "--config.model.activation=none", "--config.num_epochs=1"]
    with short(tmp_path, 2, *flags) as group:
        assert group.wait() == {0: 0, 1: 0}
    last = metrics(tmp_path / "run")[-1]
    assert evaluate_checkpoint(digits(), tmp_path / "run")["test_loss"] == pytest.approx(
        last["test_loss"], rel=1e-5
    )


@pytest.mark.slow
def test_two_processes_learn_from_a_teacher_what_one_learns(tmp_path, alone, run_main):
    flags = [f"--config.optim.distillation.teacher={alone}", "--config.num_epochs=1"]
    with short(tmp_path, 2, *flags) as group:
        assert group.wait() == {0: 0, 1: 0}, group.logs()
        assert f"the teacher is the network in {alone} at step" in group.said[0]
    result = run_main(*FLAGS, *flags, f"--workdir={tmp_path / 'one'}", devices=4)
    assert result.returncode == 0, result.stderr
    assert_same_run(tmp_path / "run", tmp_path / "one")
