"""Paths as people write them; and all files or none, whatever fails."""

import ast
import errno
import os
import pathlib
import re
import shutil

import pytest

from qresnet_jax.errors import UserError
from qresnet_jax.system.files import as_path, make_directory, write_all

REPO = pathlib.Path(__file__).parents[2]


def contents(directory):
    """Everything below a directory: the text of files, and None for directories."""
    return {
        path.relative_to(directory).as_posix(): path.read_text() if path.is_file() else None
        for path in directory.rglob("*")
    }


@pytest.mark.parametrize("path", ["~/a/b", pathlib.Path("~/a/b"), "~//a/b/"])
def test_a_tilde_is_the_home_directory(home, path):
    assert as_path(path) == home / "a" / "b"
    assert as_path("~") == home
    assert as_path("~root/x") == pathlib.Path(os.path.expanduser("~root/x"))


@pytest.mark.parametrize("path", ["", ".", "a", "a/~", "a~", "/a/~/b", "./a", "../a"])
def test_a_path_without_a_tilde_at_its_beginning_is_taken_as_it_is(home, path):
    assert as_path(path) == pathlib.Path(path)


@pytest.mark.parametrize("path", ["./~", "./~/a", "./~nobody_here", "./~root/a"])
def test_a_name_that_begins_with_a_tilde_is_given_with_its_directory(home, path):
    expected = pathlib.Path(os.getcwd()) / path
    assert as_path(path) == expected
    assert as_path(as_path(path)) == expected


def test_a_file_of_a_tilde_and_no_user_is_found_but_none_is_made(home):
    pathlib.Path("~backup.png").touch()
    assert as_path("~backup.png").samefile("~backup.png")
    for path in ("~nobody_here", "~nobody_here/model.onnx"):
        with pytest.raises(UserError, match=f"{path}: there is no user nobody_here; .* write ./{path}$"):
            as_path(path)


def test_every_path_that_is_given_is_read_with_as_path():
    """Otherwise a tilde in it makes a directory of that name, or is not found."""
    seen = 0
    for file in (REPO / "qresnet_jax").rglob("*.py"):
        for function in ast.walk(ast.parse(file.read_text())):
            if not isinstance(function, ast.FunctionDef) or function.name == "as_path":
                continue
            arguments = (*function.args.args, *function.args.kwonlyargs)
            given = {a.arg for a in arguments if a.annotation and "PathLike" in ast.unparse(a.annotation)}
            calls = [node for node in ast.walk(function) if isinstance(node, ast.Call) and node.args]
            for name, argument in ((ast.unparse(call.func), ast.unparse(call.args[0])) for call in calls):
                seen += name == "as_path" and argument in given
                assert argument not in given or name not in ("pathlib.Path", "open"), (
                    f"{file}: {name}({argument})"
                )
    assert seen > 10  # the check sees them


# What writes files in place, and why it may.
IN_PLACE = {
    "system/files.py": "write_all itself",
    "data/builders.py": "a download under a temporary name",
    "ship/c/engine.py": "sources in a temporary directory",
    "ship/wasm/build.py": "sources in a temporary directory",
    "ship/verify.py": "copies and a script in a temporary directory",
    "train/checkpoints/checksums.py": "a checkpoint under a temporary name",
    "data/folder/prepare.py": "a prepared set under a temporary name",
}


def test_whole_files_are_written_by_write_all():
    for file in (REPO / "qresnet_jax").rglob("*.py"):
        pattern = r'\.write_(text|bytes)\(|\bopen\([^)]*"(w|x)b?"'
        written = re.search(pattern, file.read_text())
        assert bool(written) == (file.relative_to(REPO / "qresnet_jax").as_posix() in IN_PLACE), file


def test_new_directories_are_made_and_named(tmp_path):
    assert make_directory(tmp_path / "a" / "b") == [tmp_path / "a", tmp_path / "a" / "b"]
    assert make_directory(tmp_path / "a" / "b") == []


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


@pytest.mark.parametrize("below", ["b", "c/b", "c/d/b"])
def test_nothing_changes_where_one_file_cannot_be_written(tmp_path, below):
    (tmp_path / "a").write_text("old")
    (tmp_path / "file").write_text("no directory")
    before = contents(tmp_path)
    with pytest.raises(UserError) as caught:
        write_all({tmp_path / "new" / "a": b"new", tmp_path / "file" / below: b"b"}, [tmp_path / "a"])
    assert str(caught.value) == (
        f"{tmp_path}/file/{below} cannot be written ({tmp_path}/file is a file, not a directory): choose another place"
    )
    assert contents(tmp_path) == before


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    with pytest.raises(UserError, match="link is a link that leads nowhere, not a directory"):
        write_all({tmp_path / "link" / "a": b"a"})


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


def test_a_name_as_long_as_the_file_system_takes_is_written(tmp_path):
    longest = tmp_path / ("x" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    for content in ("first", "second"):
        write_all({longest: content.encode()})
        assert contents(tmp_path) == {longest.name: content}


def failing(monkeypatch, name, count, error):
    """Lets the call number `count` of a function of `os` raise an error; returns the list of all calls so far."""
    usual, calls = getattr(os, name), []

    def call(*args, **options):
        calls.append(args)
        if len(calls) == count:
            raise error
        return usual(*args, **options)

    monkeypatch.setattr(os, name, call)
    return calls


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "Input/output error"), KeyboardInterrupt()], ids=["error", "Ctrl-C"]
)
@pytest.mark.parametrize("name", ["mkdir", "open", "fsync", "link", "replace", "unlink"])
def test_whichever_call_fails_all_files_are_new_or_none_is(tmp_path, monkeypatch, name, error):
    names, outdated = ("a", "new", "b", "sub/sub/new", "link"), ("gone", "gone too")
    new = dict.fromkeys(names, "new") | {"sub": None, "sub/sub": None}
    results = []
    for count in range(1, 30):
        directory = tmp_path / f"{count}"
        directory.mkdir()
        for file in ("a", "b", *outdated):
            (directory / file).write_text("old")
        (directory / "link").symlink_to("a")
        before = contents(directory)
        with monkeypatch.context() as patch:
            calls = failing(patch, name, count, error)
            try:
                write_all(
                    {directory / file: b"new" for file in names}, [directory / file for file in outdated]
                )
                results.append("written")
            except UserError as refusal:
                assert "cannot be written (Input/output error): choose another place" in str(refusal)
                results.append("refused")
            except KeyboardInterrupt:
                results.append("interrupted")
        after = contents(directory)
        if name == "unlink":  # of the temporary files, which are hidden
            after = {file: text for file, text in after.items() if not file.startswith(".")}
        assert after in {"written": [new], "refused": [before], "interrupted": [before, new]}[results[-1]]
        assert (directory / "link").is_symlink() == (after == before)
        if len(calls) < count:
            break
    assert results[-1] == "written" and len(results) > 2  # every call has failed once


def test_files_are_put_back_where_there_are_no_hard_links(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    failing(monkeypatch, "link", 1, OSError(errno.EPERM, "Operation not permitted"))
    failing(monkeypatch, "replace", 2, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(UserError, match="b cannot be written"):
        write_all({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert contents(tmp_path) == {"a": "old"}


@pytest.fixture
def no_rename_but_the_first(monkeypatch):
    """Gives a list of functions of modules that fail together with the second rename, as `(module, name)`."""
    usual, failing_too = os.replace, [(os, "replace")]

    def broken(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    def once(*paths):
        for module, name in failing_too:
            monkeypatch.setattr(module, name, broken)
        usual(*paths)

    monkeypatch.setattr(os, "replace", once)
    return failing_too


def test_files_are_put_back_where_no_file_can_be_renamed_any_more(tmp_path, no_rename_but_the_first):
    (tmp_path / "a").write_text("old")
    with pytest.raises(UserError, match="b cannot be written .Input/output error.: choose another place$"):
        write_all({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert contents(tmp_path) == {"a": "old"}


def test_what_cannot_be_put_back_either_is_named_and_kept(tmp_path, no_rename_but_the_first):
    (tmp_path / "a").write_text("old")
    no_rename_but_the_first += [(os, "link"), (shutil, "copy2")]
    with pytest.raises(UserError) as caught:
        write_all({tmp_path / "a": b"new", tmp_path / "b": b"new"})
    assert f"{tmp_path}/a has changed and could not be put back; its former content is in " in str(
        caught.value
    )
    (old,) = tmp_path.glob(".*.old")
    assert str(caught.value).endswith(str(old)) and old.read_text() == "old"
    assert list(contents(tmp_path)) == [old.name]


def test_a_file_system_that_cannot_sync_directories_is_written(tmp_path, monkeypatch):
    failing(monkeypatch, "fsync", 2, OSError(errno.EINVAL, "Invalid argument"))
    write_all({tmp_path / "a": b"new"})
    assert contents(tmp_path) == {"a": "new"}
