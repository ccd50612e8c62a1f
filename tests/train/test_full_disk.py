"""Real processes on disks that fill up or turn read-only: one clear message, and nothing that was saved is lost."""

import json
import subprocess

import pytest

from qresnet_jax.train.checkpoint import Checkpoints

FLAGS = ["--config=configs/digits.py", "--config.model.depth=8", "--config.num_epochs=3"]


@pytest.fixture
def disk(tmp_path):
    """`disk(size)`: a directory of its own small file system; skips where none can be mounted."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a file system needs root")
        return place

    yield mount
    subprocess.run(["umount", "--lazy", str(place)], capture_output=True)


def assert_refused(result, *texts):
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    for text in texts:
        assert text in result.stderr


def test_a_disk_that_is_full_from_the_beginning(run_main, disk):
    place = disk("size=8k")
    (place / "fill").write_bytes(b"x" * 4096)
    assert_refused(run_main(*FLAGS, f"--workdir={place}/run"), "No space left on device", "make room")


def test_a_disk_that_fills_up_keeps_what_was_saved_and_the_run_goes_on_with_room(run_main, disk):
    place = disk("size=1500k")  # the first of three checkpoints fits
    assert_refused(
        run_main(*FLAGS, f"--workdir={place}/run"),
        "a checkpoint could not be written",
        "(no space left on the device)",
        "that of step 21 is kept. Make room, and the same command goes on",
    )
    checkpoints = Checkpoints(place / "run", read_only=True)
    assert checkpoints.latest_step == 21
    checkpoints.close()
    disk("remount", "size=20m")
    result = run_main(*FLAGS, f"--workdir={place}/run")
    assert result.returncode == 0, result.stderr
    assert "going on from step 21 of 63" in result.stdout and "done: test accuracy" in result.stdout
    steps = [json.loads(line)["step"] for line in (place / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [21, 42, 63]


def test_a_read_only_workdir(run_main, disk):
    place = disk("size=20m")
    (place / "run").mkdir()
    disk("remount", "ro")
    assert_refused(
        run_main(*FLAGS, f"--workdir={place}/run"),
        f"the workdir {place}/run cannot be written (Read-only file system): give another --workdir",
    )
