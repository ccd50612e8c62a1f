"""A directory and archives of the same files are the same; nothing hidden, linked or outside is read."""

import io
import os
import tarfile
import zipfile

import pytest

from qresnet_jax.data import DataError
from qresnet_jax.data.folder import source
from qresnet_jax.data.folder.source import open_source
from tests.data.folder.folders import SPLIT, pack, write

ARCHIVES = ("x.tar", "x.tar.gz", "x.tar.xz", "x.zip")


def contents(opened, base=""):
    wanted = set(opened.listing.images)
    return {path.removeprefix(base): load() for path, load in opened.read(wanted)}


def add(tar, name, content=b"x", **fields):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("name", ARCHIVES)
def test_an_archive_holds_what_its_folder_does(tmp_path, name):
    root = write(tmp_path / "x", *SPLIT, "train/empty/")
    (root / "readme.txt").write_text("not an image")
    opened, directory = open_source(pack(root, tmp_path / name)), open_source(root)
    base = "" if name.endswith("zip") else "x/"
    assert contents(opened, base) == contents(directory)
    assert {f"{base}{path}" for path in directory.listing.folders} <= set(opened.listing.folders)
    assert opened.listing.others == directory.listing.others == 1
    assert sorted(opened.listing.images) == list(opened.listing.images)
    assert {path.removeprefix(base): size for path, size in opened.listing.images.items()} == (
        directory.listing.images
    )


def test_only_the_wanted_files_are_read(tmp_path):
    root = write(tmp_path / "x", *SPLIT)
    for opened in (open_source(root), open_source(pack(root, tmp_path / "x.zip"))):
        assert [path for path, _ in opened.read({SPLIT[2]})] == [SPLIT[2]]


@pytest.mark.parametrize("name", ["x", *ARCHIVES])
def test_hidden_files_and_folders_are_ignored(tmp_path, name):
    hidden = [".git/a.png", "train/.thumbs/a.png", "train/cat/.a.png", "__MACOSX/train/cat/._0.png"]
    root = write(tmp_path / "x", *SPLIT, *hidden)
    opened = open_source(root if name == "x" else pack(root, tmp_path / name))
    assert len(opened.listing.images) == len(SPLIT)
    assert not [folder for folder in opened.listing.folders if "." in folder]


def test_endings_are_compared_without_case(tmp_path):
    write(tmp_path, "a/x.png")
    (tmp_path / "a/x.png").rename(tmp_path / "a/X.PNG")
    assert list(open_source(tmp_path).listing.images) == ["a/X.PNG"]


def test_links_in_a_directory_are_followed_once(tmp_path):
    write(tmp_path / "real", "cat/0.png")
    root = write(tmp_path / "x", "dog/0.png")
    (root / "cat").symlink_to(tmp_path / "real/cat")
    (root / "dog/loop").symlink_to(root)
    (root / "dog/1.png").symlink_to(tmp_path / "real/cat/0.png")
    assert list(open_source(root).listing.images) == ["cat/0.png", "dog/0.png", "dog/1.png"]


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    write(tmp_path, "cat/0.png")
    (tmp_path / "cat/1.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(DataError, match=r"cat/1.png cannot be read .*: correct this, or remove it"):
        _ = open_source(tmp_path).listing


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_in_a_tar_are_not_read(tmp_path, kind):
    secret = write(tmp_path, "secret.png") / "secret.png"
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "cat/0.png")
        add(tar, "cat/1.png", b"", type=kind, linkname=str(secret))
    opened = open_source(tmp_path / "x.tar")
    assert list(opened.listing.images) == ["cat/0.png"] and opened.listing.others == 1
    assert [path for path, _ in opened.read({"cat/0.png", "cat/1.png"})] == ["cat/0.png"]


def test_links_in_a_zip_are_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cat/0.png", b"x")
        link = zipfile.ZipInfo("cat/1.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    opened = open_source(tmp_path / "x.zip")
    assert list(opened.listing.images) == ["cat/0.png"] and opened.listing.others == 1
    assert [path for path, _ in opened.read({"cat/0.png", "cat/1.png"})] == ["cat/0.png"]


def test_names_that_lead_out_of_an_archive_lead_nowhere(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("../out/0.png", "cat/../../1.png", "/cat/2.png", "./cat/3.png", "cat//4.png"):
            add(tar, name)
    before = sorted(os.listdir(tmp_path))
    opened = open_source(tmp_path / "x.tar")
    assert list(opened.listing.images) == ["cat/2.png", "cat/3.png", "cat/4.png"]
    assert len(contents(opened)) == 3 and sorted(os.listdir(tmp_path)) == before


def test_the_last_of_two_members_with_one_name_counts(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        add(tar, "cat/0.png", b"old")
        add(tar, "cat/0.png", b"newer")
    assert contents(open_source(tmp_path / "x.tar")) == {"cat/0.png": b"newer"}


@pytest.mark.parametrize("name", ["x.tar.gz", "x.zip"])
def test_a_member_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(source, "MOST_BYTES", 2**20)
    (tmp_path / "x/cat").mkdir(parents=True)
    (tmp_path / "x/cat/0.png").write_bytes(bytes(2**22))
    opened = open_source(pack(tmp_path / "x", tmp_path / name))
    with pytest.raises(DataError, match=r"cat/0.png: it unpacks to more than 1048576 bytes"):
        contents(opened)


@pytest.mark.parametrize("name", ARCHIVES)
def test_a_cut_archive_is_refused_in_a_line(tmp_path, name):
    path = pack(write(tmp_path / "x", *SPLIT, size=(40, 40)), tmp_path / name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(
        DataError, match=r"x\.\S+( is neither|: the archive is cut or damaged).*copy"
    ) as caught:
        contents(open_source(path))
    assert "\n" not in str(caught.value)


def test_what_is_no_source_is_refused(tmp_path):
    (tmp_path / "x.tar").write_text("text")
    for given, message in (
        ("", "config.data.raw_dir is empty: give the folder of images"),
        (tmp_path / "gone", "gone' does not exist: give the folder of images"),
        (tmp_path / "x.tar", "x.tar is neither a directory nor a whole tar, tar.gz, tar.xz or zip archive"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(given)


@pytest.mark.parametrize("change", ["add", "remove", "write", "rename", "folder"])
def test_the_stamp_tells_of_every_change(tmp_path, change):
    root = write(tmp_path / "x", *SPLIT)
    before = open_source(root).stamp()
    assert open_source(root).stamp() == before
    file = root / SPLIT[0]
    match change:
        case "add":
            write(root, "train/cat/new.png")
        case "remove":
            file.unlink()
        case "write":
            os.utime(file, ns=(0, 0))
        case "rename":
            file.rename(file.with_name("other.png"))
        case "folder":
            (root / "train/new").mkdir()
    assert open_source(root).stamp() != before
