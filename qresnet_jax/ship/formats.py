"""Writes an integer network in one of the export formats. Each format's writer is imported when it is needed."""

import os
import pathlib

from qresnet_jax.errors import ExportError
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.system.files import as_path

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
    """Writes a network. Either all of its files are written or none.

    Args:
      network: a network from `fold` or from a packed file.
      path: path of the file, or of the directory for format "c".
      format: "packed", "c", "onnx" or "stablehlo".
      c_profile, c_prefix: the profile ("fast" or "small") of format "c", and what names in its code begin
        with; see `qresnet_jax.ship.c.writer.write_c`.

    Returns:
      The paths of the files.

    Raises:
      ValueError: if there is no such format.
      UserError: if the files cannot be written, or if the network takes images of any size and the format
        needs one size.
    """
    path = as_path(path)
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
