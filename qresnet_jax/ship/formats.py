"""Writes an integer network in one of the export formats. Each format's writer is imported when it is needed."""

import dataclasses
import os
import pathlib

from qresnet_jax.errors import ExportError
from qresnet_jax.ship.network import IntegerNetwork, height_and_width
from qresnet_jax.system.files import as_path, missing_directories

# The formats, and how default names of their files end.
ENDINGS = {
    "packed": ".safetensors",
    "c": "_c",
    "onnx": ".onnx",
    "stablehlo": ".stablehlo",
    "wasm": "_wasm",
}
DIRECTORIES = ("c", "wasm")  # the formats that are a directory of files
# The options of format "c", with their defaults.
C_OPTIONS = {"c_profile": "fast", "c_prefix": "model", "c_layout": "pair"}
# The formats that a name promises by how it ends, the longest ending first. Any other name is good for any format.
_PROMISES: dict[str, tuple[str, ...]] = {
    **{".qonnx.onnx": ("qonnx",), ".qonnx": ("qonnx",), ".c": ("c",), ".h": ("c",), ".wasm": ("wasm",)},
    **{ending: (format,) for format, ending in ENDINGS.items() if format not in DIRECTORIES},
    ".onnx": ("onnx", "qonnx"),
}


def check_path(path: pathlib.Path, format: str) -> None:
    """Refuses the path of an export that cannot be one of this format, before the work is done.

    Args:
      path: the path of the file, or of the directory for a format of `DIRECTORIES`.
      format: one of `ENDINGS`, or "qonnx".

    Raises:
      ExportError: the name ends like that of another format's file, or a directory is in the place of the file, or a file
        in the place of a directory.
    """
    ending = next((ending for ending in _PROMISES if path.name.lower().endswith(ending)), None)
    if format in DIRECTORIES and (ending or os.path.isfile(path)):
        why = f"ends in {ending}" if ending else "is a file"
        raise ExportError(
            f"{path} {why}, but the format {format} is a directory of files: give the path of a directory"
        )
    if ending and format not in _PROMISES[ending]:
        formats = " or ".join(_PROMISES[ending])
        own = ENDINGS.get(format, ".onnx")
        raise ExportError(
            f"{path} ends in {ending}, as files of format {formats} do, but the format is {format}: let the name end in "
            f"{own}, or choose the format {formats}"
        )
    if os.path.isdir(path) and format not in DIRECTORIES:
        raise ExportError(
            f"{path} is a directory, but the format {format} is a file: give the path of a file"
        )
    try:
        missing_directories(path.parent)
    except OSError as error:
        raise ExportError(f"{path} cannot be written ({error.strerror}): choose another place") from error


def check_programs(format: str) -> None:
    """Looks for the programs that write a format, before the work is done.

    Raises:
      CompilerError: for format "wasm", if there is nothing that compiles to WebAssembly; the message says what to install.
    """
    if format == "wasm":
        from qresnet_jax.ship.wasm.build import find_tools

        find_tools()


def write_network(
    network: IntegerNetwork,
    path: str | os.PathLike[str],
    format: str = "packed",
    *,
    image_shape: tuple[int, int] | None = None,
    c_profile: str = C_OPTIONS["c_profile"],
    c_prefix: str = C_OPTIONS["c_prefix"],
    c_layout: str = C_OPTIONS["c_layout"],
) -> list[pathlib.Path]:
    """Writes a network. Either all of its files are written or none.

    Args:
      network: a network from `fold` or from a packed file.
      path: path of the file, or of the directory for the formats "c" and "wasm".
      format: "packed", "c", "onnx", "stablehlo" or "wasm".
      image_shape: `(height, width)` of the images, for a network that takes any size. The formats "c", "stablehlo" and
        "wasm" need one.
      c_profile, c_prefix, c_layout: of format "c" the profile ("fast" or "small"), what names in its code begin with,
        and its files ("pair" or "header"); see `qresnet_jax.ship.c.writer.write_c`.

    Returns:
      The paths of the files.

    Raises:
      ValueError: if there is no such format, or if the image shape is not possible.
      UserError: if the files cannot be written, or the path is not one of this format (see `check_path`), or if the
        network takes images of another size, or of any and the format needs one, or if an
        option of C is given for another format, or if a program is missing (see `check_programs`).
    """
    path = as_path(path)
    if format in ENDINGS:
        check_path(path, format)
    for name, value in (("c_profile", c_profile), ("c_prefix", c_prefix), ("c_layout", c_layout)):
        if format != "c" and value != C_OPTIONS[name]:
            raise ExportError(
                f"{name}={value!r} is for format c only, but the format is {format}: leave {name} at {C_OPTIONS[name]!r}"
            )
    if image_shape is not None:
        network = _of_size(network, image_shape)
    height, width, channels = network.image_shape
    if format in ("c", "stablehlo", "wasm") and None in (height, width):
        raise ExportError(
            f"this network takes images of any size, but format {format} needs one size: fold it with an image_shape, or, of a "
            f"packed file, call load_packed(FILE).export(PATH, format={format!r}, image_shape=(height, width)) in Python"
        )
    match format:
        case "packed":
            from qresnet_jax.ship.packed.file import save_packed

            save_packed(network, path)
        case "c":
            from qresnet_jax.ship.c.writer import write_c

            return write_c(network, path, profile=c_profile, prefix=c_prefix, layout=c_layout)
        case "onnx":
            from qresnet_jax.ship.onnx.writer import write_onnx

            write_onnx(network, path)
        case "stablehlo":
            from qresnet_jax.ship.jax.engine import make_logits
            from qresnet_jax.ship.jax.stablehlo import write_stablehlo

            assert height is not None and width is not None
            write_stablehlo(make_logits(network), path, (height, width, channels))
        case "wasm":
            from qresnet_jax.ship.wasm.writer import write_wasm

            return write_wasm(network, path)
        case _:
            also = "; qonnx is written from a trained run, by --mode=export" if format == "qonnx" else ""
            raise ValueError(f"format must be one of {', '.join(ENDINGS)}, got {format!r}{also}")
    return [path]


def _of_size(network: IntegerNetwork, image_shape: tuple[int, int]) -> IntegerNetwork:
    height, width = height_and_width(image_shape)
    if not network.takes((height, width, network.channels)):
        raise ExportError(
            f"image_shape=({height}, {width}): the network takes images of {'x'.join(map(str, network.image_shape))}, at least "
            f"{'x'.join(map(str, network.least_size))}"
        )
    return dataclasses.replace(network, height=height, width=width)
