"""Tiny folders of images, and archives of them."""

import pathlib
import tarfile
import zipfile

import numpy as np
from PIL import Image


def pixels(path, size=(8, 8), channels=3):
    """The pixels of the picture that `write` puts at a path: random, but the same for the same path."""
    rng = np.random.default_rng(list(path.encode()))
    x = rng.integers(0, 256, (*size, channels), np.uint8)
    return x if channels == 3 else x[..., 0]


def write(root, *paths, size=(8, 8), channels=3):
    """Writes a picture to each path; one that ends with "/" becomes an empty folder."""
    for path in paths:
        file = pathlib.Path(root, path)
        if path.endswith("/"):
            file.mkdir(parents=True, exist_ok=True)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels(path, size, channels)).save(file)
    return root


def names(*prefixes, count=3, ending="png"):
    """`count` paths in each of some folders."""
    return [f"{prefix}/{i}.{ending}" for prefix in prefixes for i in range(count)]


SPLIT = names("train/cat", "train/dog") + names("test/cat", "test/dog", count=2)


def pack(root, path):
    """Packs a folder into an archive of the kind that the ending of its name says."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*")):
                archive.write(file, file.relative_to(root))
    else:
        kind = {".tar": "", ".gz": "gz", ".xz": "xz"}[path.suffix]
        with tarfile.open(path, f"w:{kind}") as archive:
            archive.add(root, root.name)
    return path
