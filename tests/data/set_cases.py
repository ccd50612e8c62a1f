"""Configs and small sets, for tests."""

import json
import struct
from types import SimpleNamespace

import numpy as np


def config(name, data_dir="", raw_dir="", **more):
    return SimpleNamespace(name=name, data_dir=str(data_dir), raw_dir=str(raw_dir), **more)


def write_mnist(folder, n=25, n_test=6):
    rng = np.random.default_rng(n)
    folder.mkdir(parents=True, exist_ok=True)
    arrays = []
    for stem, count in (("train", n), ("t10k", n_test)):
        images, labels = rng.integers(0, 256, (count, 28, 28), np.uint8), rng.integers(0, 10, count, np.uint8)
        head = b"\0\0\x08\x03" + struct.pack(">3I", *images.shape)
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(head + images.tobytes())
        head = b"\0\0\x08\x01" + struct.pack(">I", count)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(head + labels.tobytes())
        arrays.append((images[..., None], labels))
    return arrays


def rewrite(directory, change):
    """Changes the description of a set that TFDS has prepared."""
    info = json.loads((directory / "dataset_info.json").read_text())
    change(info)
    (directory / "dataset_info.json").write_text(json.dumps(info))
