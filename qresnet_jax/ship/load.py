"""Loads a packed file, or a model of the zoo, for prediction."""

import importlib
import importlib.resources
import os
import pathlib
from collections.abc import Callable

import numpy as np

from qresnet_jax.errors import PackedError
from qresnet_jax.ship.formats import write_network
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.file import read_packed

# Modules of this package, which are imported when they are needed; each has `logits(network, images)`.
ENGINES = {"jax": "jax.engine", "c": "c.engine", "numpy": "reference"}


class PackedNetwork:
    """A network that is ready to predict; `load_packed` makes one.

    Args:
      network: the integer network to run.
      nbytes: size of the file that it came from, in bytes.
      engine: "jax", "c" or "numpy", see `load_packed`.

    Raises:
      ValueError: if there is no such engine.
    """

    def __init__(self, network: IntegerNetwork, nbytes: int, engine: str = "jax") -> None:
        if engine not in ENGINES:
            raise ValueError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}")
        self.network, self.nbytes, self.engine = network, nbytes, engine
        module = importlib.import_module(f"qresnet_jax.ship.{ENGINES[engine]}")
        self._logits: Callable[[IntegerNetwork, np.ndarray], np.ndarray] = module.logits

    def __repr__(self) -> str:
        shape = "x".join(str(size or "any") for size in self.network.image_shape)
        return f"PackedNetwork({shape} images, {self.network.classes} classes, {self.nbytes} bytes, engine={self.engine!r})"

    @property
    def logit_scale(self) -> float:
        """Returns what one unit of the integer logits is worth."""
        return self.network.logit_scale

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Returns the names of the classes in the order of the logits, or None if the file has none."""
        return self.network.class_names

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Computes logits.

        Args:
          images: uint8 `[N, H, W, C]`.

        Returns:
          int32 `[N, classes]`; times `logit_scale` they are the logits of training.

        Raises:
          ValueError: if the images do not have the network's shape, or are not uint8.
          CompilerError: if the engine is "c" and no C compiler works.
        """
        return self._logits(self.network, images)

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Classifies uint8 images `[N, H, W, C]`; the errors are those of `logits`.

        Returns:
          The classes, integers `[N]`.
        """
        return self.logits(images).argmax(-1)

    def export(
        self, path: str | os.PathLike[str], format: str = "packed", **options: str
    ) -> list[pathlib.Path]:
        """Writes the network in another format and returns the paths of the files.

        The arguments and errors are those of `qresnet_jax.ship.formats.write_network`.
        """
        return write_network(self.network, path, format, **options)


def load_packed(path: str | os.PathLike[str], engine: str = "jax") -> PackedNetwork:
    """Reads a packed file for prediction.

    Args:
      path: path of the file, or the name of a model in the zoo.
      engine: what computes: "jax" (on CPU, GPU or TPU), "c" (usually the fastest on a CPU, but needs a C
        compiler) or "numpy" (the reference). All give the same integers.

    Raises:
      PackedError: if this version cannot read the file; the message says why.
      ValueError: if there is no such engine.

    Examples:
      >>> import numpy as np
      >>> network = load_packed("digits_resnet8_w1a2", engine="numpy")
      >>> network.predict(np.zeros((2, 8, 8, 1), np.uint8)).shape
      (2,)
    """
    file = find_packed(path)
    network = read_packed(file)
    return PackedNetwork(network, file.stat().st_size, engine)


def zoo() -> dict[str, pathlib.Path]:
    """Returns the paths of the packed files that come with the package, by name."""
    directory = pathlib.Path(str(importlib.resources.files("qresnet_jax"))) / "zoo"
    return {path.stem: path for path in sorted(directory.glob("*.safetensors"))}


def find_packed(path: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a packed file, or of the model in the zoo that has this name.

    Raises:
      PackedError: if there is neither such a file nor such a model.
    """
    found = pathlib.Path(path)
    if not found.exists() and str(path) in zoo():
        found = zoo()[str(path)]
    if not found.exists():
        raise PackedError(
            f"{path} cannot be read: there is no such file, nor such a model in the zoo, which has {', '.join(zoo())}"
        )
    return found
