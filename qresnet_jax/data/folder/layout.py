"""Says which split and which class each image file of a folder belongs to.

    train/CLASS/*, test/CLASS/*     val, valid or validation instead of test; beside test, it is the validation split
    CLASS/*                         every tenth image of each class is the test split, as it also is without a test split

A class folder may have folders of its own. What lies in a single folder with all of this in it is found, too.
"""

import collections
from collections.abc import Sequence
from typing import NamedTuple

from qresnet_jax.data.dataset import check_classes, places_of_test, shuffled
from qresnet_jax.data.folder.source import Listing
from qresnet_jax.errors import DataError

PARTS = ("train", "validation", "test")
_NAMES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


class Layout(NamedTuple):
    """The class names, the files of each split with their labels, and what is to be said about it."""

    class_names: tuple[str, ...]
    splits: dict[
        str, list[tuple[str, int]]
    ]  # PARTS -> (path, label) of each image, in the order of the split
    notes: list[str]


def lay_out(listing: Listing, where: object) -> Layout:
    """Finds the splits and the classes of a folder of images.

    The train images are shuffled, always in the same way, since the end of train may become the validation split.

    Args:
      listing: what the folder holds.
      where: the folder, for messages.

    Raises:
      DataError: there are no images or no class folders, or fewer than two classes, or a class without images in train, or
        a class in another split that train does not have.
    """
    if not listing.images:
        raise DataError(
            f"{where}: found no image files; files with other names: {listing.others}. Give a folder with "
            "train/CLASS/*.jpg and test/CLASS/*.jpg, or with CLASS/*.jpg."
        )
    folders = _folders(listing)
    base = _base(folders, listing.images)
    found = _splits(base, folders, where)
    notes = (
        [f"{listing.others} files that are no images by their names are left out"] if listing.others else []
    )
    files = {part: _by_class(prefix, listing.images) for part, prefix in found.items()}
    loose = sum(base == "" or path.startswith(base) for path in listing.images) - sum(
        len(paths) for classes in files.values() for paths in classes.values()
    )
    names = tuple(sorted({*files["train"], *_children(found["train"], folders)}))
    _check(where, found["train"], names, files)
    if loose:
        notes.append(f"{loose} images lie in no class folder of a split that is used, and are left out")
    if "validation" in found and "test" not in found:
        files["test"] = files.pop("validation")
        notes.append(f"there is no test split: {found['validation'].rstrip('/')} is used as test")
    elif "test" not in found:
        files["train"], files["test"] = _keep_for_test(files["train"])
        counts = [sum(map(len, files[part].values())) for part in ("test", "train")]
        if not counts[0]:
            raise DataError(
                f"{where}: every class has a single image, so that none can be kept for the test: add images, or a folder test"
            )
        notes.append(
            f"there is no test split: every tenth image of each class, sorted by name, is kept as test, {counts[0]} of "
            f"{sum(counts)} images"
        )
    if "validation" in files:
        notes.append(
            f"{found['validation'].rstrip('/')} is the validation split; config.data.holdout is not used"
        )
    for part in ("validation", "test"):
        if part in files and (missing := [name for name in names if not files[part].get(name)]):
            notes.append(f"{part} has no images of {_few(missing)}")
    label = {name: i for i, name in enumerate(names)}
    splits = {
        part: [(path, label[name]) for name in sorted(files[part]) for path in files[part][name]]
        for part in PARTS
        if part in files
    }
    if empty := [part for part in splits if not splits[part]]:
        raise DataError(f"{where}: {empty[0]} has no images: add some, or remove its folder")
    splits["train"] = [splits["train"][i] for i in shuffled(len(splits["train"]))]
    return Layout(names, splits, notes)


def _folders(listing: Listing) -> set[str]:
    """Returns all folders with a "/" at their ends; an archive may list files alone."""
    above = set()
    for path in (*listing.images, *(f"{folder}/" for folder in listing.folders)):
        while "/" in path:
            path = path.rpartition("/")[0]
            above.add(f"{path}/")
    return above


def _children(prefix: str, folders: set[str]) -> list[str]:
    """Returns the names of the folders directly in one."""
    inside = (
        folder[len(prefix) : -1] for folder in folders if folder.startswith(prefix) and folder != prefix
    )
    return sorted(name for name in inside if "/" not in name)


def _base(folders: set[str], images: dict[str, int]) -> str:
    """Returns the folder that everything lies in: "", or the only folder there as long as it has folders itself."""
    base = ""
    while True:
        children = _children(base, folders)
        has_images = any("/" not in path[len(base) :] for path in images if path.startswith(base))
        if len(children) != 1 or has_images or children[0].lower() in _NAMES:
            return base
        if not _children(f"{base}{children[0]}/", folders):
            return base
        base = f"{base}{children[0]}/"


def _splits(base: str, folders: set[str], where: object) -> dict[str, str]:
    """Returns the folders of the splits; without folders that are named after splits, `base` is train."""
    named = {name.lower(): f"{base}{name}/" for name in _children(base, folders) if name.lower() in _NAMES}
    # A folder without folders in it is a class, whatever its name: pictures of trains lie in train.
    named = {name: folder for name, folder in named.items() if _children(folder, folders)}
    found = {_NAMES[name]: folder for name, folder in sorted(named.items())}
    if found and "train" not in found:
        raise DataError(
            f"{where}: found {_few(sorted(named.values()))} but no train/ with class folders: without a train split, there "
            "is nothing to learn from; add it."
        )
    return found or {"train": base}


def _by_class(prefix: str, images: dict[str, int]) -> dict[str, list[str]]:
    """Returns the images below a folder by the first folder that they lie in."""
    classes = collections.defaultdict(list)
    for path in images:
        if path.startswith(prefix) and "/" in (rest := path[len(prefix) :]):
            classes[rest.partition("/")[0]].append(path)
    return dict(classes)


def _check(where: object, train: str, names: Sequence[str], files: dict[str, dict[str, list[str]]]) -> None:
    if not names:
        raise DataError(
            f"{where}: the images lie in no class folders: give a folder with train/CLASS/*.jpg and test/CLASS/*.jpg, or "
            "with CLASS/*.jpg."
        )
    if empty := [name for name in names if not files["train"].get(name)]:
        raise DataError(
            f"{where}: the folder {train}{empty[0]} has no images: add some, or remove the folder"
            + (f" (the same is true of {_few(empty[1:])})." if empty[1:] else ".")
        )
    check_classes(where, names)
    for part in ("validation", "test"):
        if unknown := sorted(set(files.get(part, ())) - set(names)):
            raise DataError(
                f"{where}: {part} has the classes {_few(unknown)}, which train does not have; those of train are "
                f"{_few(names)}: name the folders alike."
            )
    for name in names:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"{where}: the folder name {name!r} is no UTF-8 text: rename it.") from error


def _keep_for_test(
    classes: dict[str, list[str]],
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Returns what is left of train, and a test split of every tenth image of each class, at least one of two or more."""
    train, test = {}, {}
    for name, paths in classes.items():
        kept = places_of_test(len(paths))
        test[name] = [paths[i] for i in kept]
        train[name] = [path for i, path in enumerate(paths) if i not in kept]
    return train, test


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(names[:10])
    return f"{shown} and {len(names) - 10} more" if len(names) > 10 else shown
