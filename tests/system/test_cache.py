"""The user's cache is private, or refused."""

import os
import pathlib

import pytest

from qresnet_jax.errors import UserError
from qresnet_jax.system.cache import cache_directory


@pytest.fixture(autouse=True)
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "base"))
    return tmp_path / "base"


def test_it_is_made_for_this_user_alone_and_found_again(base):
    directory = cache_directory("c")
    assert directory == base / "qresnet_jax" / "c"
    for path in (directory, directory.parent):
        assert path.stat().st_mode & 0o077 == 0 and path.stat().st_uid == os.getuid()
    assert cache_directory("c") == directory


def test_it_lies_in_the_home_directory_by_default(tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_directory("c") == tmp_path / ".cache" / "qresnet_jax" / "c"


@pytest.mark.parametrize("place", ["c", ""])
@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_what_others_can_write_to_is_refused(base, place, mode):
    directory = cache_directory("c")
    (base / "qresnet_jax" / place).chmod(mode)
    with pytest.raises(UserError, match=f"{directory} .*can be written by other users: run chmod go-w"):
        cache_directory("c")


def test_what_belongs_to_others_is_refused(monkeypatch):
    cache_directory("c")
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)
    with pytest.raises(UserError, match="belongs to"):
        cache_directory("c")


def test_where_it_cannot_be_made_the_message_says_what_to_set(base):
    pathlib.Path(base).write_text("no directory")
    with pytest.raises(UserError, match="cannot be made .*: set XDG_CACHE_HOME"):
        cache_directory("c")
