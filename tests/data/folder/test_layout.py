"""Which split and class each image is of."""

import pytest

from qresnet_jax.data import DataError
from qresnet_jax.data.folder.layout import lay_out
from qresnet_jax.data.folder.source import Listing
from tests.data.folder.folders import SPLIT, names

FLAT = names("cat", "dog", count=25)


def layout(*paths, others=0):
    images = {path: 1 for path in sorted(paths) if not path.endswith("/")}
    return lay_out(Listing(images, [path[:-1] for path in paths if path.endswith("/")], others), "photos")


def files(found, part):
    return sorted(found.splits[part])


@pytest.mark.parametrize("test", ["test", "val", "valid", "validation", "Test"])
def test_the_folders_of_splits_are_found_with_the_classes_in_sorted_order(test):
    found = layout(*(path.replace("test/", f"{test}/") for path in SPLIT))
    assert found.class_names == ("cat", "dog") and set(found.splits) == {"train", "test"}
    assert files(found, "train") == [
        *((f"train/cat/{i}.png", 0) for i in range(3)),
        *((f"train/dog/{i}.png", 1) for i in range(3)),
    ]
    assert files(found, "test") == [
        *((f"{test}/cat/{i}.png", 0) for i in range(2)),
        *((f"{test}/dog/{i}.png", 1) for i in range(2)),
    ]
    assert bool(found.notes) == (test.lower() != "test")


def test_names_are_sorted_as_texts():
    assert layout(*names("10", "9", "B", "a")).class_names == ("10", "9", "B", "a")


def test_a_third_split_is_the_validation_split():
    found = layout(*SPLIT, *names("val/cat", "val/dog", count=1))
    assert files(found, "validation") == [("val/cat/0.png", 0), ("val/dog/0.png", 1)]
    assert found.notes == ["val is the validation split; config.data.holdout is not used"]


@pytest.mark.parametrize("prefix", ["", "train/", "photos/", "a/b/train/"])
def test_without_a_test_split_every_tenth_image_of_each_class_is_kept(prefix):
    found = layout(*(prefix + path for path in FLAT))
    assert found.class_names == ("cat", "dog")
    assert len(found.splits["test"]) == 4 and len(found.splits["train"]) == 46
    every_tenth = [sorted(f"{i}.png" for i in range(25))[k] for k in (9, 19)]
    assert files(found, "test") == sorted(
        (f"{prefix}{name}/{file}", label) for label, name in enumerate(("cat", "dog")) for file in every_tenth
    )
    assert (
        "no test split: every tenth image of each class, sorted by name, is kept as test, 4 of 50"
        in found.notes[0]
    )
    assert layout(*(prefix + path for path in FLAT)) == found


def test_a_small_class_gives_one_image_to_the_test_and_a_single_one_none():
    found = layout(*names("cat", count=2), *names("dog", count=1))
    assert files(found, "test") == [("cat/1.png", 0)]
    assert files(found, "train") == [("cat/0.png", 0), ("dog/0.png", 1)]
    assert "test has no images of dog" in found.notes


def test_train_is_shuffled_always_in_the_same_way():
    train = layout(*FLAT).splits["train"]
    assert train != sorted(train) and layout(*FLAT).splits["train"] == train
    assert len({label for _, label in train[-5:]}) == 2


@pytest.mark.parametrize("base", ["cifar/", "a/b/c/"])
def test_a_folder_around_everything_does_not_count(base):
    assert layout(*(base + path for path in SPLIT)).class_names == ("cat", "dog")


def test_a_class_may_have_folders_and_be_called_train():
    found = layout(*names("train", "car", "plane"))
    assert found.class_names == ("car", "plane", "train")
    assert layout(*names("cat/2024/may", "cat/2025", "dog")).class_names == ("cat", "dog")


def test_a_class_that_test_lacks_is_said():
    assert layout(*SPLIT[:8]).notes == ["test has no images of dog"]


@pytest.mark.parametrize(
    ("paths", "others", "message"),
    [
        ([], 3, "photos: found no image files; files with other names: 3. Give a folder with train/CLASS"),
        (names("train/cat", "test/cat"), 0, "photos has the only class 'cat', so there is nothing to tell apart"),
        (names("cat"), 0, "photos has no class folders|the images lie in no class folders|the only class 'cat'"),
        (["a.png", "b.png"], 0, "photos: the images lie in no class folders: give a folder with"),
        (names("test/cat", "test/dog"), 0, "found test/ but no train/ with class folders"),
        ([*SPLIT, "train/emu/"], 0, "photos: the folder train/emu has no images: add some, or remove"),
        ([*SPLIT, *names("test/emu")], 0, "test has the classes emu, which train does not have; .* cat, dog: name"),
        ([*names("cat", "dog"), "emu/", "fox/"], 0, r"folder emu has no images: .*\(the same is true of fox\)"),
        (names("cat", "dog", count=1), 0, "every class has a single image, so that none can be kept for the test: add"),
        ([*names("train/cat", "train/dog"), "test/cat/", "test/dog/"], 0, "photos: test has no images: add some, or remove"),
        ([*SPLIT, "val/cat/"], 0, "photos: validation has no images: add some, or remove its folder"),
        ([*names("cat"), "d\udcff/0.png"], 0, r"the folder name 'd\\udcff' is no UTF-8 text: rename it"),
    ],
)  # fmt: skip
def test_a_folder_of_another_form_is_refused(paths, others, message):
    with pytest.raises(DataError, match=message):
        layout(*paths, others=others)


def test_what_is_left_out_is_said():
    found = layout(*SPLIT, "a.png", "train/b.png", "more/cat/0.png", others=2)
    assert found.notes == [
        "2 files that are no images by their names are left out",
        "3 images lie in no class folder of a split that is used, and are left out",
    ]


def test_a_test_folder_without_classes_is_left_out():
    found = layout(*names("train/cat", "train/dog"), *names("test"))
    assert {path.split("/")[0] for path, _ in found.splits["test"]} == {"train"}
    assert any(note.startswith("3 images lie in no class folder") for note in found.notes)
