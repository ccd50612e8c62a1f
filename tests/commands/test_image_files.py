"""What a name in `config.predict.images` stands for."""

import pathlib

import pytest

from qresnet_jax.commands.image_files import find_images
from qresnet_jax.config import default_config, validate
from qresnet_jax.errors import UserError

TREE = (
    "a.png",
    "b.JPG",
    "a,b.png",
    "x y.png",
    "[1].png",
    "1.png",
    "img.dat",
    "photos/2.png",
    "photos/10.png",
    "photos/notes.txt",
)
TREE += (
    "photos/.hidden.png",
    "photos/sub/3.png",
    "photos/.dir/4.png",
    "texts/a.txt",
    "nested/cat/5.png",
    "nested/dog/6.png",
)


@pytest.fixture(autouse=True)
def tree(tmp_path, monkeypatch):
    for name in TREE:
        path = tmp_path / "here" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "here" / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here" / "nested"))
    return tmp_path / "here"


@pytest.mark.parametrize(
    ("given", "files"),
    [
        ("a.png", "a.png"),
        ("b.JPG,a.png", "b.JPG a.png"),  # in the order in which they are given
        (" a.png , b.JPG,", "a.png b.JPG"),
        ("a.png,a.png", "a.png a.png"),
        ("img.dat", "img.dat"),  # a file that is named itself is read whatever its ending
        ("photos", "photos/10.png photos/2.png"),
        ("./photos/", "photos/10.png photos/2.png"),
        ("photos,a.png", "photos/10.png photos/2.png a.png"),
        ("photos/*", "photos/10.png photos/2.png"),
        ("photos/?.png", "photos/2.png"),
        ("photos/**", "photos/10.png photos/2.png photos/sub/3.png"),
        ("nested/*/*.png,photos/[12].png", "nested/cat/5.png nested/dog/6.png photos/2.png"),
        ("[ab].*", "a.png b.JPG"),
        ("[1].png", "[1].png"),  # an existing file is no pattern
        ("*.dat", "img.dat"),
        ("~/cat", "nested/cat/5.png"),
        ("~/*/6.png,a.png", "nested/dog/6.png a.png"),
        (("~/cat/5.png", "photos"), "nested/cat/5.png photos/10.png photos/2.png"),
    ],
)
def test_names_stand_for_files_directories_and_patterns(tree, given, files):
    assert [path.resolve().relative_to(tree).as_posix() for path in find_images(given)] == files.split()


@pytest.mark.parametrize(
    "given", ["a,b.png", "b.JPG,a,b.png", "a,b.png,x y.png", ("a,b.png",), ("a.png", "a,b.png")]
)
def test_a_name_that_exists_with_its_commas_is_one_name(given, caplog):
    with caplog.at_level("INFO", "qresnet_jax"):
        found = find_images(given)
    assert pathlib.Path("a,b.png") in found and all(path.is_file() for path in found)
    assert ("a,b.png: one name, as it exists with its commas" in caplog.messages) == isinstance(given, str)


def test_many_names_in_one_string_are_no_name_that_is_too_long():
    assert find_images(",".join(["a.png"] * 2000)) == [pathlib.Path("a.png")] * 2000
    names = [*["a.png"] * 2000, "a,b.png"]
    assert find_images(",".join(names)) == [pathlib.Path(name) for name in names]


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("photos", "photos: a directory with 2 images; 2 others are left out"),
        ("nested/cat", "nested/cat: a directory with 1 image"),
        ("photos/*", "photos/*: a pattern with 2 images; 2 others are left out"),
        ("nested/*/*", "nested/*/*: a pattern with 2 images"),
    ],
)
def test_the_log_says_what_a_name_was_taken_for(given, text, caplog):
    with caplog.at_level("INFO", "qresnet_jax"):
        find_images(given)
    assert caplog.messages == [text]


@pytest.mark.parametrize(
    ("given", "texts"),
    [
        ("", ["is empty: give files, directories or patterns"]),
        (" , ,", ["is empty"]),
        ((), ["is empty"]),
        ("none.png", ["there is no file or directory none.png", "paths from the current directory, /"]),
        ("a.png,none/x.png", ["there is no file or directory none/x.png"]),
        ("a.png/x.png", ["there is no file or directory a.png/x.png"]),
        (("none,a.png",), ["there is no file or directory none,a.png"]),
        ("empty", ["the directory empty has no image file", "other files: 0, directories: 0"]),
        (
            "texts",
            [
                "the directory texts has no image file (.avif",
                "other files: 1, directories: 0. Give 'texts/*'",
            ],
        ),
        (
            "nested",
            [
                "the directory nested has no image file",
                "directories: 2",
                "'nested/**' to search the directories too",
            ],
        ),
        ("none*.png", ["there is no file none*.png, and as a pattern it matches nothing"]),
        ("nested/*", ["as a pattern it matches only 2 directories: give nested/*/*"]),
        ("~nobody_here/a.png", ["there is no user nobody_here"]),
        ("/dev/null", ["/dev/null is neither a file nor a directory"]),
        ("broken.png", ["broken.png is neither a file nor a directory"]),
    ],
)
def test_a_name_that_stands_for_no_file_is_refused_in_a_line(tree, given, texts):
    (tree / "broken.png").symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        find_images(given)
    assert all(text in str(caught.value) for text in texts) and "\n" not in str(caught.value)


@pytest.mark.parametrize("given", ["a.png", ("a.png", "b,c.png"), ()])
def test_the_field_takes_a_string_and_a_tuple(given):
    config = default_config()
    config.predict.images = given
    validate(config)
