"""Writes a function of images as a StableHLO file, which any program with JAX can run on CPU, CUDA and TPU.

The file is what `jax.export` serializes: portable StableHLO with the weights inside. JAX promises to read it
for six months after the version that wrote it. `read_stablehlo` does the same as this line, and checks the
file:

    jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes())).call(images)
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy.typing as npt
from flax import nnx
from jax import export

from qresnet_jax.errors import ExportError, UserError
from qresnet_jax.pixels import normalize
from qresnet_jax.system.files import as_path, write_all

PLATFORMS = ("cpu", "cuda", "tpu")

ImageFunction = Callable[[jax.Array], jax.Array]  # takes uint8 images [N, H, W, C]


def simulation(model: nnx.Module, mean: npt.ArrayLike = 127.5) -> ImageFunction:
    """Returns a trained network in evaluation mode as a function of pixels, with the normalisation included.

    Args:
      model: any network of the layers in `qresnet_jax.nn`, in any mode. It is not changed.
      mean: the pixel means that training subtracted, one number or one per channel.

    Returns:
      A function from uint8 images `[N, H, W, C]` to logits, float32 `[N, classes]`.
    """
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True, raise_if_not_found=False))
    means = jnp.asarray(mean, jnp.float32)
    return lambda images: nnx.merge(graphdef, state)(normalize(images, means))


def write_stablehlo(
    function: ImageFunction,
    path: str | os.PathLike[str],
    image_shape: tuple[int, int, int],
    *,
    batch_size: int | None = None,
) -> None:
    """Writes a function of images. A file that is already at `path` is replaced at once or not at all.

    Args:
      function: a function from uint8 images `[N, H, W, C]` to an array that `jax.jit` can compile, such as
        `simulation(model)` or `qresnet_jax.ship.jax.engine.make_logits(network)`.
      path: path of the file.
      image_shape: `(height, width, channels)`.
      batch_size: the N of all calls. With None, N may be any number from 1 up, if the function can be traced
        without knowing it.

    Raises:
      ExportError: if the function cannot be traced without a `batch_size`.
      UserError: if the file cannot be written.
    """
    n = export.symbolic_shape("N")[0] if batch_size is None else batch_size
    images = jax.ShapeDtypeStruct((n, *image_shape), jnp.uint8)
    try:
        exported = export.export(jax.jit(function), platforms=PLATFORMS)(images)
    except jax.errors.InconclusiveDimensionOperation as error:
        reason = str(error).splitlines()[0]
        raise ExportError(
            f"this function cannot be exported for any number of images ({reason}): give a batch_size"
        ) from error
    write_all({as_path(path): exported.serialize()})


def read_stablehlo(path: str | os.PathLike[str]) -> ImageFunction:
    """Returns the function in a file that `write_stablehlo` wrote, jitted.

    Raises:
      UserError: if the file cannot be read, or is not such a file.
    """
    try:
        data = bytearray(as_path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return jax.jit(export.deserialize(data).call)
    except Exception as error:  # whatever the parser of the format meets first
        raise UserError(
            f"{path} is no StableHLO file of jax.export, or is damaged, or is from a version that JAX {jax.__version__} "
            f"can no longer read ({type(error).__name__}): export it again"
        ) from error
