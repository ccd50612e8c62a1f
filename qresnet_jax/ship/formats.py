"""Writes an integer network in one of the export formats. Each format's writer is imported when it is needed."""

import os
import pathlib

from qresnet_jax.errors import ExportError
from qresnet_jax.ship.network import IntegerNetwork

# The formats, and how default names of their files end; the C source is a directory.
ENDINGS = {"packed": ".safetensors", "c": "_c", "onnx": ".onnx", "stablehlo": ".stablehlo"}


def write_network(
    network: IntegerNetwork,
    path: str | os.PathLike[str],
    format: str = "packed",
    *,
    c_profile: str = "fast",
    c_prefix: str = "model",
) -> list[pathlib.Path]:
    """Writes a network, whole or not at all.

    Args:
      network: from `fold` or a packed file.
      path: of the file; of the directory, for format "c".
      format: a key of `ENDINGS`.
      c_profile, c_prefix: "fast" or "small", and what names begin with, for format "c"; see
        `qresnet_jax.ship.c.writer.write_c`.

    Returns:
      The files.

    Raises:
      ValueError: no such format.
      UserError: it cannot be written, or takes images of any size, which this format cannot.
    """
    path = pathlib.Path(path)
    height, width, channels = network.image_shape
    if format in ("c", "stablehlo") and None in (height, width):
        raise ExportError(
            f"this network takes images of any size, but format {format} needs one size: fold it with an image_shape"
        )
    match format:
        case "packed":
            from qresnet_jax.ship.packed.file import save_packed

            save_packed(network, path)
        case "c":
            from qresnet_jax.ship.c.writer import write_c

            return write_c(network, path, profile=c_profile, prefix=c_prefix)
        case "onnx":
            from qresnet_jax.ship.onnx.writer import write_onnx

            write_onnx(network, path)
        case "stablehlo":
            from qresnet_jax.ship.jax.engine import make_logits
            from qresnet_jax.ship.jax.stablehlo import write_stablehlo

            assert height is not None and width is not None
            write_stablehlo(make_logits(network), path, (height, width, channels))
        case _:
            also = "; qonnx is written from a trained run, by --mode=export" if format == "qonnx" else ""
            raise ValueError(f"format must be one of {', '.join(ENDINGS)}, got {format!r}{also}")
    return [path]
