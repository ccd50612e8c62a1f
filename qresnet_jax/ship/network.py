"""The integer network: what `fold` makes, a packed file stores, and every engine and writer walks."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from qresnet_jax.ship.nodes import ClassifierNode, Node, StemNode, value_types


@dataclasses.dataclass(frozen=True, eq=False)
class IntegerNetwork:
    """A network in integers from pixel to logit; make one with `qresnet_jax.ship.fold.fold`.

    Args:
      nodes: the first is the `StemNode`, the last the `ClassifierNode`.
      fraction_bits: of the residual stream's grid.
      logit_scale: what one unit of the integer logits is worth.
      class_names: in the order of the logits, or None.
      height, width: of the images; None where any will do.

    Raises:
      ValueError: the nodes do not fit together, or an array is not what its node's definition says.
    """

    nodes: tuple[Node, ...]
    fraction_bits: int
    logit_scale: float
    class_names: tuple[str, ...] | None = None
    height: int | None = None
    width: int | None = None

    def __post_init__(self) -> None:
        values = value_types(self.nodes)
        if self.class_names is not None and len(self.class_names) != values[-1].channels:
            raise ValueError(f"{len(self.class_names)} class names for {values[-1].channels} classes")
        if not (0 <= self.fraction_bits <= 15 and np.isfinite(self.logit_scale) and self.logit_scale > 0):
            raise ValueError(
                f"fraction_bits={self.fraction_bits} must be 0 to 15, logit_scale={self.logit_scale} above 0"
            )
        if any(size is not None and not 1 <= size < 2**16 for size in (self.height, self.width)):
            raise ValueError(f"height={self.height}, width={self.width} must be 1 to 65535, or None")

    @property
    def stem(self) -> StemNode:
        """Returns the first node."""
        first = self.nodes[0]
        assert isinstance(first, StemNode)  # or there would be no network
        return first

    @property
    def classifier(self) -> ClassifierNode:
        """Returns the last node."""
        last = self.nodes[-1]
        assert isinstance(last, ClassifierNode)  # or there would be no network
        return last

    @property
    def channels(self) -> int:
        """Of the images."""
        return self.stem.weights.shape[2]

    @property
    def image_shape(self) -> tuple[int | None, int | None, int]:
        """`(height, width, channels)`; a size is None where any will do."""
        return self.height, self.width, self.channels

    def takes(self, shape: Sequence[int]) -> bool:
        """Whether images of this `(height, width, channels)` are the network's."""
        return all(want in (None, got) for want, got in zip(self.image_shape, shape, strict=True))

    @property
    def classes(self) -> int:
        """Number of logits."""
        return len(self.classifier.bias)

    @property
    def mean(self) -> np.ndarray:
        """The pixel means that are subtracted, half-integers, float64 `[channels]`."""
        return self.stem.double_mean / 2
