"""A function of images as a StableHLO file, which any program with JAX runs, on CPU, CUDA and TPU.

The file is what `jax.export` serializes: portable StableHLO with the weights inside. JAX promises to read it for six months
after the version that wrote it. `read_stablehlo` is this line and checks:

    jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes())).call(images)
"""

import os
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy.typing as npt
from flax import nnx
from jax import export

from qresnet_jax.errors import ExportError, UserError
from qresnet_jax.models.resnet import ResNet
from qresnet_jax.pixels import normalize
from qresnet_jax.system.files import write_all

PLATFORMS = ("cpu", "cuda", "tpu")

ImageFunction = Callable[[jax.Array], jax.Array]  # of uint8 images [N, H, W, C]


def simulation(model: ResNet, mean: npt.ArrayLike = 127.5) -> ImageFunction:
    """A trained network in evaluation mode, with the normalisation before it.

    Args:
      model: any network, in any mode; it is not changed.
      mean: pixel means that training subtracted, one or one per channel.

    Returns:
      A function from uint8 images `[N, H, W, C]` to logits, float32 `[N, classes]`.
    """
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True))
    means = jnp.broadcast_to(jnp.asarray(mean, jnp.float32), (model.stem.in_features,))
    return lambda images: nnx.merge(graphdef, state)(normalize(images, means))


def write_stablehlo(
    function: ImageFunction,
    path: str | os.PathLike[str],
    image_shape: tuple[int, int, int],
    *,
    batch_size: int | None = None,
) -> None:
    """Writes a function of images; a file at `path` is replaced at once or not at all.

    Args:
      function: jitted, or fit for it: from uint8 images `[N, H, W, C]` to an array; like `simulation(model)`, or
        `jax_engine.make_logits(network)`.
      path: of the file.
      image_shape: (height, width, channels).
      batch_size: the N of all calls; None for any from 1 up, if the function can be traced without knowing it.

    Raises:
      ExportError: the function cannot be traced without a `batch_size`.
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
    write_all({pathlib.Path(path): exported.serialize()})


def read_stablehlo(path: str | os.PathLike[str]) -> ImageFunction:
    """The function of a file that `write_stablehlo` wrote, jitted.

    Raises:
      UserError: the file cannot be read, or is something else.
    """
    try:
        data = bytearray(pathlib.Path(path).read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    try:
        return jax.jit(export.deserialize(data).call)
    except Exception as error:  # whatever the parser of the format meets first
        raise UserError(
            f"{path} is no StableHLO file of jax.export, or is damaged, or is of a version that JAX {jax.__version__} no "
            f"longer reads ({type(error).__name__}): export it again"
        ) from error
