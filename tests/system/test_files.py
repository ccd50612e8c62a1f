"""All files or none."""

import errno

import pytest

from qresnet_jax.errors import UserError
from qresnet_jax.system.files import write_all


def test_files_are_written_and_outdated_ones_removed(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "gone").write_text("old")
    write_all({tmp_path / "a": b"new", tmp_path / "sub" / "b": b"b"}, [tmp_path / "gone", tmp_path / "never"])
    assert {
        p.relative_to(tmp_path).as_posix(): p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()
    } == {
        "a": b"new",
        "sub/b": b"b",
    }


def test_nothing_changes_where_one_file_cannot_be_written(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "file").write_text("no directory")
    with pytest.raises(UserError, match="file/b cannot be written .*choose another place"):
        write_all({tmp_path / "a": b"new", tmp_path / "file" / "b": b"b"}, [tmp_path / "a"])
    assert (tmp_path / "a").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "file"]


def test_a_directory_in_the_place_of_a_file_is_named_and_nothing_is_written(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(UserError, match="b cannot be written .Is a directory.: choose another place"):
        write_all({tmp_path / "a": b"a", tmp_path / "b": b"b"})
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_full_disk_is_answered_with_make_room(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(UserError, match="a cannot be written .No space left on device.: make room there"):
        write_all({tmp_path / "a": b"a"})
    assert list(tmp_path.iterdir()) == []
