"""The form in which an image set lies in memory."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qresnet_jax.errors import DataError


class Split(NamedTuple):
    """The images of one split and their classes."""

    images: np.ndarray  # uint8 [N, H, W, C]
    labels: np.ndarray  # int32 [N]


@dataclasses.dataclass(frozen=True)
class ImageDataset:
    """An image set in memory. `mean` and `std` are in units of pixel values, for `(pixels - mean) / std`.

    `mean` is rounded to multiples of 1/2, because the shipped network starts from the integer 2 * pixel - 2 * mean.
    """

    name: str
    train: Split
    validation: Split | None  # None if nothing is held out
    test: Split
    class_names: tuple[str, ...]
    mean: np.ndarray  # float64 [C], over the images of `train`
    std: np.ndarray  # float64 [C], the standard deviation over the same images; 1 if a channel is constant

    def __post_init__(self) -> None:
        check_classes(self.name, self.class_names)


def check_classes(name: object, class_names: Sequence[str]) -> None:
    """Refuses a set of fewer than two classes.

    Args:
      name: what the message calls the set.
      class_names: the names of its classes.

    Raises:
      DataError: there are fewer than two.
    """
    if len(class_names) < 2:
        have = f"the only class {class_names[0]!r}" if class_names else "no classes"
        raise DataError(
            f"{name} has {have}, so there is nothing to tell apart: choose a set with two or more classes, or add images "
            "of another class to this one and prepare it again."
        )
