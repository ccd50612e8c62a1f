"""Says what the published archives of the standard sets hold, and in what form they are handed on once they are read."""

from typing import NamedTuple

import numpy as np

from qresnet_jax.errors import DataError


class RawSplit(NamedTuple):
    """The images and labels of one split of an archive."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: dict[str, np.ndarray]  # int64 [N] each: "label", in CIFAR-100 also "coarse_label"


class RawSet(NamedTuple):
    """The content of an archive."""

    train: RawSplit
    test: RawSplit
    class_names: dict[str, list[str]]  # by label key, for those labels whose classes the archive names


class Published(NamedTuple):
    """What the published original of a set holds, and where it can be found."""

    shape: tuple[int, int, int]  # (height, width, channels)
    classes: dict[str, int]  # label key -> number of classes, in the order of CIFAR's label bytes
    train: int  # number of images
    test: int  # number of images
    files: str  # names of the files, for messages
    home: str  # address of the set's page, for messages


_IDX = "train-images-idx3-ubyte(.gz) and its three companions"
_CIFAR_HOME = "https://www.cs.toronto.edu/~kriz/cifar.html"
_FASHION_HOME = "https://github.com/zalandoresearch/fashion-mnist"
_C10, _C100 = (f"cifar-{n}-python.tar.gz or cifar-{n}-binary.tar.gz" for n in (10, 100))
PUBLISHED = {
    "cifar10": Published((32, 32, 3), {"label": 10}, 50_000, 10_000, _C10, _CIFAR_HOME),
    "cifar100": Published(
        (32, 32, 3), {"coarse_label": 20, "label": 100}, 50_000, 10_000, _C100, _CIFAR_HOME
    ),
    "mnist": Published((28, 28, 1), {"label": 10}, 60_000, 10_000, _IDX, "http://yann.lecun.com/exdb/mnist/"),
    "fashion_mnist": Published((28, 28, 1), {"label": 10}, 60_000, 10_000, _IDX, _FASHION_HOME),
}


def class_numbers(values: np.ndarray, name: str, key: str, where: str) -> np.ndarray:
    """Returns labels as int64 [N]; before that they are of whatever type the archive has, even uint64."""
    classes = PUBLISHED[name].classes[key]
    if values.size and not 0 <= values.min() <= values.max() < classes:
        raise DataError(
            f"{where}: '{key}' runs from {values.min()} to {values.max()}, but {name} has {classes} classes: copy the "
            "archive again."
        )
    return values.astype(np.int64)
