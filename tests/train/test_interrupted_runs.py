"""Interrupted runs in real processes: what SIGTERM, SIGKILL and full disks leave ends as an uninterrupted run does."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest

from qresnet_jax.train.checkpoints.checkpoint import Checkpoints

CONFIGS = pathlib.Path(__file__).parents[2] / "configs"
STEPS = 105  # 5 epochs of 21
FLAGS = ["--config=configs/digits.py", "--config.num_epochs=5", "--config.log_every_steps=5"]
FLAGS += ["--config.checkpoint_every_epochs=1"]


@pytest.fixture(scope="module")
def uninterrupted(run_main, tmp_path_factory):
    """A finished run: its workdir and what it said."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    result = run_main(*FLAGS, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    return workdir, result.stdout


def metrics(workdir):
    """The lines of metrics.jsonl, all complete, without the speed."""
    text = (workdir / "metrics.jsonl").read_text()
    assert text.endswith("\n")
    lines = [json.loads(line) for line in text.splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)), "each step once"
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in lines]


def checkpoint_arrays(workdir):
    """Every array of every checkpoint."""
    checkpoints = Checkpoints(workdir, read_only=True)
    steps = sorted({checkpoints.best_step, checkpoints.latest_step})
    found = {step: checkpoints.arrays(step) for step in steps}
    checkpoints.close()
    assert sorted(int(p.name) for p in (workdir / "checkpoints").iterdir()) == steps
    return found


def assert_same_run(workdir, other):
    assert metrics(workdir) == metrics(other)
    got, want = checkpoint_arrays(workdir), checkpoint_arrays(other)
    assert got.keys() == want.keys()
    paths = want[STEPS].keys()
    for part in (
        "params",
        "model_state",
        ".latent.",
        ".sign.",
        ".trace.",
        "alpha",
        "mean.value",
        "sums",
        "step",
    ):
        assert any(part in path for path in paths), part
    for step in want:
        assert got[step].keys() == want[step].keys()
        for path, x in want[step].items():
            assert got[step][path].tobytes() == x.tobytes(), (step, path)


def recorded(workdir):
    """The last step in metrics.jsonl, 0 for none."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return json.loads(lines[-1])["step"] if lines else 0


def complete(workdir):
    """Steps of the checkpoints that have their final name."""
    return {int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit()}


def logged_steps(last):
    """Every 5 steps of an epoch, and its last one, up to `last`."""
    return [step for step in range(1, last + 1) if step % 21 in (5, 10, 15, 20, 0)]


def being_saved(workdir):
    return [path for path in (workdir / "checkpoints").glob("*") if not path.name.isdigit()]


def wait_for(process, condition):
    until = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.communicate(timeout=300)
        assert time.monotonic() < until
        time.sleep(0.002)


def finish(process):
    out, err = process.communicate(timeout=120)
    assert "Traceback" not in err, err
    return process.returncode, out, err


# ---- SIGTERM, SIGINT ---------------------------------------------------------------------------------------


def assert_a_second_process_is_refused(first, run_main, workdir):
    first.send_signal(signal.SIGSTOP)  # it holds the workdir for as long as the second needs
    second = run_main(*FLAGS, f"--workdir={workdir}")
    first.send_signal(signal.SIGCONT)
    assert second.returncode not in (0, None) and "Traceback" not in second.stderr
    assert (
        f"error: another process trains in {workdir}: wait for it, or give another --workdir" in second.stderr
    )


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)], ids=lambda n: n.name
)
def test_stopped_runs_end_as_one_that_was_not_stopped(start_main, run_main, tmp_path, uninterrupted, number):
    workdir = tmp_path / "run"
    process = start_main(*FLAGS, f"--workdir={workdir}")
    wait_for(process, lambda: recorded(workdir) >= 30)
    assert_a_second_process_is_refused(process, run_main, workdir)
    process.send_signal(number)
    status, out, _ = finish(process)
    assert status == 0
    stopped = re.search(
        rf"stopped by {number.name} at step (\d+); everything is saved, and the same command", out
    )
    step = int(stopped[1])
    assert 30 <= step < STEPS and max(complete(workdir)) == step
    assert "test accuracy" not in out
    result = run_main(*FLAGS, f"--workdir={workdir}")
    assert result.returncode == 0 and f"continuing from step {step} of {STEPS}" in result.stdout
    assert_same_run(workdir, uninterrupted[0])
    assert [line["step"] for line in metrics(workdir)] == logged_steps(STEPS)


# ---- SIGKILL -----------------------------------------------------------------------------------------------


def test_killed_runs_end_as_one_that_was_not_killed(start_main, run_main, tmp_path, uninterrupted):
    workdir, rng, said = tmp_path / "run", np.random.default_rng(0), []

    def kill_when(condition, delay=0.0):
        start = max(complete(workdir), default=0)
        process = start_main(*FLAGS, f"--workdir={workdir}")
        wait_for(process, condition)
        time.sleep(delay)
        safe = max(complete(workdir), default=0)
        process.kill()
        out = process.communicate(timeout=300)[0]
        assert process.returncode == -signal.SIGKILL, "it was too fast to be killed"
        assert start == 0 or f"continuing from step {start} of" in out
        said.append((safe, max(complete(workdir), default=0)))

    kill_when(lambda: being_saved(workdir))  # in the middle of the first save
    # And between two saves, with records of steps that are done again.
    kill_when(
        lambda: max(complete(workdir), default=0) >= 63 and recorded(workdir) >= 73, rng.uniform(0, 0.1)
    )
    with (workdir / "metrics.jsonl").open("a") as file:
        file.write('{"step": 104, "train_lo')  # as if the kill had hit a write
    # A checkpoint that was complete before the kill is there afterwards.
    assert all(after >= safe for safe, after in said) and said[-1][1] >= 63
    result = run_main(*FLAGS, f"--workdir={workdir}")
    assert result.returncode == 0, result.stderr
    assert f"continuing from step {said[-1][1]} of {STEPS}" in result.stdout
    assert_same_run(workdir, uninterrupted[0])


# ---- Full disks ---------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """`disk(size)`: a directory of its own small file system; skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True, timeout=60).returncode:
            pytest.skip("mounting a file system needs root")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True, timeout=60)


def assert_refused(result, *texts):
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for text in texts:
        assert text in result.stderr


def test_a_disk_that_is_full_from_the_beginning(run_main, disk):
    place = disk("size=8k")
    (place / "fill").write_bytes(b"x" * 4096)
    assert_refused(run_main(*FLAGS, f"--workdir={place}/run"), "No space left on device", "make room")


@pytest.mark.slow
def test_a_disk_that_fills_up_keeps_what_was_saved_and_the_run_goes_on_with_room(
    run_main, disk, uninterrupted
):
    place = disk("size=1500k")  # the first of five checkpoints fits
    assert_refused(
        run_main(*FLAGS, f"--workdir={place}/run"),
        "a checkpoint could not be written",
        "(no space left on the device)",
        "the checkpoint of step 21 is kept. Make room, and run the same command again",
    )
    checkpoints = Checkpoints(place / "run", read_only=True)
    assert checkpoints.latest_step == 21
    checkpoints.close()
    disk("remount", "size=20m")
    result = run_main(*FLAGS, f"--workdir={place}/run")
    assert result.returncode == 0, result.stderr
    assert f"continuing from step 21 of {STEPS}" in result.stdout and "done: test accuracy" in result.stdout
    assert_same_run(place / "run", uninterrupted[0])


def test_a_read_only_workdir(run_main, disk):
    place = disk("size=20m")
    (place / "run").mkdir()
    disk("remount", "ro")
    assert_refused(
        run_main(*FLAGS, f"--workdir={place}/run"),
        f"the workdir {place}/run cannot be written (Read-only file system): give another --workdir",
    )


# ---- Finished, damaged, other runs -------------------------------------------------------------------------


@pytest.mark.slow  # test_loop.py has it without a process
def test_a_finished_run_says_so_and_stays(run_main, tmp_path, uninterrupted):
    source, said = uninterrupted
    workdir = tmp_path / "run"
    shutil.copytree(source, workdir)
    result = run_main(*FLAGS, f"--workdir={workdir}")
    assert result.returncode == 0
    done = [line.rsplit(",", 1)[0] for line in said.splitlines() if line.startswith("done:")]
    assert done == [line.rsplit(",", 1)[0] for line in result.stdout.splitlines() if line.startswith("done:")]
    assert (workdir / "metrics.jsonl").read_bytes() == (source / "metrics.jsonl").read_bytes()
    assert_same_run(workdir, source)


@pytest.mark.slow  # test_export.py has it without a process
def test_eval_gives_the_test_accuracy_of_the_run(run_main, tmp_path, uninterrupted):
    source, _ = uninterrupted
    shutil.copytree(source, tmp_path / "runs" / "copy")
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    config = FLAGS[0].replace("configs", str(CONFIGS))
    result = run_main(config, *FLAGS[1:], "--mode=eval", "--workdir=runs/copy", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    last = metrics(source)[-1]
    want = f"test accuracy {100 * last['test_accuracy']:.2f} %, loss {last['test_loss']:.4f}"
    assert f"checkpoint at step {last['test_of_step']}, integer network: {want}" in result.stdout
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}, "it only reads"


@pytest.mark.slow  # test_checkpoint.py has it without a process
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_a_truncated_checkpoint_is_refused_with_the_way_out(run_main, tmp_path, uninterrupted, mode):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], workdir)
    for path in (workdir / "checkpoints").rglob("*"):
        if path.is_file() and "/d/" in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    result = run_main(*FLAGS, f"--workdir={workdir}", f"--mode={mode}")
    # Only a traceback of ours is a failure: threads of Orbax may complain, under load, of the read they had begun.
    assert result.returncode not in (0, None) and "main.py" not in result.stderr, result.stderr
    assert "cannot be read" in result.stderr and f"delete {workdir}/checkpoints" in result.stderr


@pytest.mark.slow  # test_resume.py has it without a process
def test_a_checkpoint_of_another_network_is_refused_with_what_differs(run_main, tmp_path, uninterrupted):
    workdir = tmp_path / "run"
    shutil.copytree(uninterrupted[0], workdir)
    result = run_main(*FLAGS, "--config.model.depth=14", f"--workdir={workdir}")
    assert result.returncode not in (0, None) and "Traceback" not in result.stderr
    assert "belongs to a run with other settings: config.model.depth=14 (was 8)" in result.stderr
    assert "another --workdir (with --config.init_from=" in result.stderr and result.stderr.count("\n") == 1
    assert_same_run(workdir, uninterrupted[0])


@pytest.mark.slow  # test_checkpoint restores on other numbers of devices
def test_a_run_goes_on_with_another_number_of_devices(start_main, tmp_path):
    before = 0
    for devices, at in ((8, 5), (1, 60), (8, 75)):  # the same num_epochs throughout: no new schedule
        process = start_main(*FLAGS, f"--workdir={tmp_path}", devices=devices)
        wait_for(process, lambda at=at: recorded(tmp_path) >= at)
        process.send_signal(signal.SIGTERM)
        status, out, err = finish(process)
        assert status == 0, err
        assert f"devices: {devices} x" in out
        if before:
            assert f"continuing from step {before} of {STEPS}" in out
        before = max(complete(tmp_path))
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if "train_loss" in line] == logged_steps(before)
    assert lines[-1]["train_accuracy"] > 0.8, "it went on learning"
