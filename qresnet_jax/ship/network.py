"""The integer network, which `fold` makes, a packed file stores, and every engine and writer reads."""

import dataclasses
import functools
import operator
from collections.abc import Sequence

import numpy as np

from qresnet_jax.ship.nodes import ClassifierNode, Node, StemNode, Value, value_types


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A network that computes in integers from pixels to logits; `qresnet_jax.ship.fold.fold` makes one.

    Args:
      nodes: the steps of the computation. The first is a `StemNode`, the last a `ClassifierNode`.
      fraction_bits: fraction bits of the residual stream's grid, 0 to 15.
      logit_scale: what one unit of the integer logits is worth, > 0.
      class_names: names of the classes in the order of the logits, or None.
      height, width: size of the images, 1 to 65535, or None if the network takes any height or width.

    Raises:
      ValueError: if the nodes do not fit together, if an array is not as its node's definition says, or if
        another argument is not possible.
    """

    nodes: tuple[Node, ...]
    fraction_bits: int
    logit_scale: float
    class_names: tuple[str, ...] | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        for name in ("height", "width"):
            if (size := getattr(self, name)) is not None:
                object.__setattr__(self, name, image_size(name, size))
        if self.class_names is not None and not all(isinstance(name, str) for name in self.class_names):
            raise ValueError(
                f"the class names must be strings, got {self.class_names}: give them as [str(name) for name in names]"
            )
        values = self.values
        if self.class_names is not None and len(self.class_names) != values[-1].channels:
            raise ValueError(
                f"{len(self.class_names)} class names for {values[-1].channels} classes: give one name for each class"
            )
        if not (0 <= self.fraction_bits <= 15 and np.isfinite(self.logit_scale) and self.logit_scale > 0):
            raise ValueError(
                f"fraction_bits={self.fraction_bits} must be 0 to 15, and logit_scale={self.logit_scale} must be above 0"
            )

    @functools.cached_property
    def values(self) -> tuple[Value, ...]:
        """Returns what is known about the results of all nodes."""
        return tuple(value_types(self.nodes, self.height, self.width))

    @property
    def stem(self) -> StemNode:
        """Returns the first node."""
        first = self.nodes[0]
        assert isinstance(first, StemNode)  # as `__post_init__` has checked
        return first

    @property
    def classifier(self) -> ClassifierNode:
        """Returns the last node."""
        last = self.nodes[-1]
        assert isinstance(last, ClassifierNode)  # as `__post_init__` has checked
        return last

    @property
    def channels(self) -> int:
        """Returns the number of channels of the images."""
        return self.stem.weights.shape[2]

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """Returns `(height, width, channels)` of the images, with None for a size that may be any."""
        return self.height, self.width, self.channels

    @functools.cached_property
    def least_size(self) -> tuple[int, int]:
        """Returns the least `(height, width)` of images of which every layer leaves a pixel."""
        return max(x.height.least for x in self.values), max(x.width.least for x in self.values)

    def takes(self, shape: Sequence[int]) -> bool:
        """Returns whether the network takes images of this shape, `(height, width, channels)`."""
        is_large = all(got >= least for got, least in zip(shape, self.least_size, strict=False))
        return is_large and all(
            want in (None, got) for want, got in zip(self.image_shape, shape, strict=True)
        )

    @property
    def classes(self) -> int:
        """Returns the number of logits."""
        return len(self.classifier.bias)

    @property
    def mean(self) -> np.ndarray:
        """Returns the pixel means that are subtracted, multiples of 1/2, float64 `[channels]`."""
        return self.stem.double_mean / 2


def height_and_width(image_shape: Sequence[int]) -> tuple[int, int]:
    """Returns the two numbers of an image shape.

    Raises:
      ValueError: there are more or fewer.
    """
    if len(image_shape) != 2:
        raise ValueError(f"image_shape={image_shape} must be (height, width), without the channels")
    height, width = image_shape
    return height, width


def image_size(name: str, size: int) -> int:
    """Returns the height or the width of images as an `int`.

    Raises:
      ValueError: it is not an integer from 1 to 65535; the message begins with `name`.
    """
    try:
        whole = operator.index(size)  # also of NumPy's integers, but not of a float
    except TypeError:
        whole = 0
    if not 1 <= whole < 2**16:
        raise ValueError(f"{name}={size} must be an integer from 1 to 65535")
    return whole
