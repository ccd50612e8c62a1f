"""A run's directory: made, and claimed for one process."""

import errno

import pytest

from qresnet_jax.errors import UserError
from qresnet_jax.train.checkpoints.workdir import claim_workdir


def test_the_directory_is_made_with_its_parents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with claim_workdir("runs/deep/a") as workdir:
        assert workdir == tmp_path / "runs" / "deep" / "a" and workdir.is_dir()


def test_a_file_system_without_locks_is_no_other_process(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(OSError, match="No locks"), claim_workdir(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_what_cannot_be_written_later_is_told_as_well(tmp_path, number):
    with (
        pytest.raises(UserError, match="metrics cannot be written .*What was saved is kept"),
        claim_workdir(tmp_path),
    ):
        raise OSError(number, "reason", "metrics")


def test_a_directory_is_claimed_once_and_free_again_afterwards(tmp_path):
    with claim_workdir(tmp_path):
        with pytest.raises(UserError) as caught, claim_workdir(tmp_path):
            pass
        assert str(caught.value) == (
            f"another process trains in {tmp_path}: wait for it, or give another --workdir"
        )
    with claim_workdir(tmp_path):
        pass


def test_the_claim_ends_with_an_error_too(tmp_path):
    with pytest.raises(ZeroDivisionError), claim_workdir(tmp_path):
        raise ZeroDivisionError
    with claim_workdir(tmp_path):
        pass


@pytest.mark.parametrize("place", ["file", "file/run", "file/runs/run"])
def test_a_place_that_is_no_directory_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError) as caught, claim_workdir(tmp_path / place):
        pass
    assert str(caught.value) == (
        f"the workdir {tmp_path}/{place} cannot be written ({tmp_path}/file is a file, not a directory): give another "
        "--workdir"
    )


def test_a_workdir_in_the_home_directory_is_given_by_a_tilde(home):
    with claim_workdir("~/runs/a") as workdir:
        assert workdir == home / "runs" / "a" and workdir.is_dir()
