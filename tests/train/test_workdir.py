"""A run's directory: made, claimed for one process, labelled with the config."""

import json

import pytest

from qresnet_jax.config import default_config
from qresnet_jax.errors import UserError
from qresnet_jax.train.workdir import claim_workdir


def test_the_directory_is_made_with_its_parents_and_has_the_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = default_config()
    with claim_workdir("runs/deep/a", config) as workdir:
        assert workdir == tmp_path / "runs" / "deep" / "a" and workdir.is_dir()
        stored = json.loads((workdir / "config.json").read_text())
    want = config.to_dict()
    want["model"]["act_bits"] = list(want["model"]["act_bits"])
    assert stored == want


def test_a_directory_is_claimed_once_and_free_again_afterwards(tmp_path):
    with claim_workdir(tmp_path, default_config()):
        with pytest.raises(UserError) as caught, claim_workdir(tmp_path, default_config()):
            pass
        assert str(caught.value) == (
            f"another process trains in {tmp_path}: wait for it, or give another --workdir"
        )
    with claim_workdir(tmp_path, default_config()):
        pass


def test_the_claim_ends_with_an_error_too(tmp_path):
    with pytest.raises(ZeroDivisionError), claim_workdir(tmp_path, default_config()):
        raise ZeroDivisionError
    with claim_workdir(tmp_path, default_config()):
        pass


def test_a_place_that_is_no_directory_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="the workdir .*file/run cannot be written .*: give another --workdir"),
        claim_workdir(tmp_path / "file" / "run", default_config()),
    ):
        pass
