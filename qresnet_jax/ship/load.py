"""Loads a packed file, or a model of the zoo, for prediction."""

import importlib
import importlib.resources
import importlib.util
import os
import pathlib
import warnings
from typing import Any

import numpy as np

from qresnet_jax.errors import CompilerError, ExportError, MissingPackageError, PackedError
from qresnet_jax.ship.formats import write_network
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.file import read_packed
from qresnet_jax.system.files import as_path

# Modules of this package, which are imported when they are needed; each has `logits(network, images)`.
ENGINES = {"jax": "jax.engine", "c": "c.engine", "numpy": "reference"}
AUTO = "auto"
_MANY = 256  # images that a GPU or a TPU computes at once, see ACCELERATOR_BATCH of the JAX engine


class PackedNetwork:
    """A network that is ready to predict; `load_packed` makes one. It can be copied and pickled.

    Args:
      network: the integer network to run.
      nbytes: size of the file that it came from, in bytes; 0 for none.
      engine: "auto", "jax", "c" or "numpy", see `load_packed`.

    Attributes:
      engine: "jax", "c" or "numpy": what computed the last logits, or before that, what will compute those of one image.

    Raises:
      MissingPackageError: if the engine needs JAX, which is not installed.
      ValueError: if there is no such engine.
    """

    def __init__(self, network: IntegerNetwork, nbytes: int, engine: str = AUTO) -> None:
        if engine not in (AUTO, *ENGINES):
            raise ValueError(f"engine must be one of {', '.join((AUTO, *ENGINES))}, got {engine!r}")
        if engine == "jax" and not importlib.util.find_spec("jax"):
            raise MissingPackageError(
                'engine="jax" needs the package jax, which is not installed: pip install jax, or take the engine "c" or "numpy"'
            )
        self.network, self.nbytes = network, nbytes
        self._asked = engine
        # What "auto" takes unless there are many images.
        self._usual = _choice() if engine == AUTO else engine
        self.engine = self._usual

    def __reduce__(self) -> tuple[type["PackedNetwork"], tuple[IntegerNetwork, int, str]]:
        return PackedNetwork, (self.network, self.nbytes, self._asked)  # another machine has other engines

    def __repr__(self) -> str:
        shape = "x".join(str(size or "any") for size in self.network.image_shape)
        chosen = ", chosen by 'auto'" if self._asked == AUTO else ""
        return (
            f"PackedNetwork({shape} images, {self.network.classes} classes, {self.nbytes} bytes, "
            f"engine={self.engine!r}{chosen})"
        )

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
          CompilerError: if the engine "c" was asked for and no C compiler works.
        """
        many = self._asked == AUTO and np.shape(images)[:1] >= (_MANY,) and _has_accelerator()
        engine = "jax" if many else self._usual
        try:
            result = _logits(engine, self.network, images)
        except (CompilerError, ExportError) as error:
            if self._asked != AUTO:
                raise
            engine = self._usual = _without_c()
            _warn(error, engine)
            result = _logits(engine, self.network, images)
        self.engine = engine
        return result

    def predict(self, images: np.ndarray) -> np.ndarray:
        """Classifies uint8 images `[N, H, W, C]`; the errors are those of `logits`.

        Returns:
          The classes, integers `[N]`.
        """
        return self.logits(images).argmax(-1)

    def export(
        self, path: str | os.PathLike[str], format: str = "packed", **options: Any
    ) -> list[pathlib.Path]:
        """Writes the network in another format and returns the paths of the files.

        The arguments and errors are those of `qresnet_jax.ship.formats.write_network`.
        """
        return write_network(self.network, path, format, **options)


def _choice() -> str:
    """Returns the engine that "auto" takes on this machine."""
    from qresnet_jax.ship.c.engine import find_compiler

    try:
        find_compiler()
    except CompilerError as error:
        engine = _without_c()
        if os.environ.get("CC"):
            _warn(error, engine)
        return engine
    return "c"


def _without_c() -> str:
    """Returns the engine that "auto" takes where C does not work."""
    return "jax" if importlib.util.find_spec("jax") else "numpy"


def _warn(error: Exception, engine: str) -> None:
    warnings.warn(f'engine="auto" takes "{engine}" instead of "c": {error}', stacklevel=3)


def _logits(engine: str, network: IntegerNetwork, images: np.ndarray) -> np.ndarray:
    module = importlib.import_module(f"qresnet_jax.ship.{ENGINES[engine]}")
    result: np.ndarray = module.logits(network, images)
    return result


def _has_accelerator() -> bool:
    """Returns whether JAX computes on a GPU or a TPU. JAX is not imported where it has no package for any."""
    if not any(map(importlib.util.find_spec, ("jax_plugins", "libtpu"))):
        return False
    import jax

    return jax.default_backend() != "cpu"


def load_packed(path: str | os.PathLike[str], engine: str = AUTO) -> PackedNetwork:
    """Reads a packed file for prediction.

    Args:
      path: path of the file, or the name of a model in the zoo.
      engine: what computes: "c" (the fastest on a CPU, but needs a C compiler), "jax" (on CPU, GPU or TPU) or "numpy"
        (the reference). All give the same integers. "auto" takes "c" if there is a C compiler, else "jax", and also
        "jax" for 256 images or more where JAX has a GPU or a TPU. If the compiler turns out not to work, "auto" warns
        and goes on with "jax". The network's `repr` says which one was taken.

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
    found = as_path(path)
    if not os.path.isfile(found) and str(path) in zoo():
        return zoo()[str(path)]
    try:
        found.stat()
    except FileNotFoundError:
        raise PackedError(
            f"{path} cannot be read: there is no such file, nor such a model in the zoo, which has {', '.join(zoo())}"
        ) from None
    except OSError as error:
        raise PackedError(f"{path} cannot be read ({error.strerror})") from error
    return found
