"""Writes an `IntegerNetwork` for browsers: one WebAssembly module, a JavaScript module, and a page. docs/wasm.md has more.

`model.wasm` is a module for every engine. At its end it has two custom sections, which engines pass over: `qresnet_jax`
describes the network in JSON, and `qresnet_jax_simd128` has the sections of a second module, with vectors. The constants of
that are not repeated: `shared` in the description says where in the file they are, and to which address they belong.
`model.js` takes the second module where the engine has vectors.
"""

import json
import os
import pathlib
from typing import NamedTuple

import numpy as np

from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.wasm import sections
from qresnet_jax.ship.wasm.build import PLAIN, SIMD, find_tools
from qresnet_jax.ship.wasm.source import sources
from qresnet_jax.system.files import as_path, write_all

DESCRIPTION, VECTORS = "qresnet_jax", "qresnet_jax_simd128"  # custom sections
STATIC = ("model.js", "index.html")
_FOLDER = pathlib.Path(__file__).parent


def write_wasm(network: IntegerNetwork, directory: str | os.PathLike[str]) -> list[pathlib.Path]:
    """Writes `model.wasm`, `model.js` and `index.html`.

    Args:
      network: a network from `fold` or from a packed file, for images of one size.
      directory: where the files go; it is made if it does not exist.

    Returns:
      The paths of the files. Either all of them are written or none.

    Raises:
      CompilerError: if there is nothing that compiles to WebAssembly, or it fails.
      UserError: if the files cannot be written.
      ValueError: if the network takes images of any size.
    """
    directory = as_path(directory)
    contents = {directory / "model.wasm": wasm_bytes(network)}
    contents |= {directory / name: (_FOLDER / name).read_bytes() for name in STATIC}
    write_all(contents)
    return list(contents)


def wasm_bytes(network: IntegerNetwork) -> bytes:
    """Returns the content of `model.wasm`; the arguments and errors are those of `write_wasm`."""
    height, width, channels = network.image_shape
    if height is None or width is None:
        raise ValueError("this network takes images of any size: fold it with an image_shape")
    tools = find_tools()
    constants, code = sources(plan(network, height, width))
    plain, vectors = map(_parts, tools.modules(constants, code, [PLAIN, SIMD]))
    address, content = plain.data[0]
    shared = _common(plain.data, vectors.data)
    rest = [(address + shared, vectors.data[0][1][shared:]), *vectors.data[1:]]
    rest = [(place, x) for place, x in rest if x]
    before = sections.join(plain.code)
    whole = before + sections.body([sections.data_section(plain.data)])
    description = {
        "height": height,
        "width": width,
        "channels": channels,
        "classNames": network.class_names or [str(k) for k in range(network.classes)],
        "logitScale": network.logit_scale,
        "shared": {"from": whole.index(content, len(before)), "length": shared, "to": address},
    }
    second = [*vectors.code, *([sections.data_section(rest)] if rest else [])]
    return whole + sections.body(
        [
            sections.custom(DESCRIPTION, json.dumps(description).encode("ascii")),
            sections.custom(VECTORS, sections.body(second)),
        ]
    )


class _Parts(NamedTuple):
    code: list[tuple[int, bytes]]  # all sections but those about data, and those that engines pass over
    data: list[tuple[int, bytes]]  # segments


def _parts(module: bytes) -> _Parts:
    """Takes a module apart."""
    found = sections.split(module)
    (data,) = (sections.segments(content) for kind, content in found if kind == sections.DATA)
    without = (sections.CUSTOM, sections.DATA, sections.DATA_COUNT)
    code = [x for x in found if x[0] not in without]
    return _Parts(code, data)


def _common(first: list[tuple[int, bytes]], second: list[tuple[int, bytes]]) -> int:
    """Returns how many bytes are the same at the beginning of the first segments, if those have the same address."""
    (address, a), (other, b) = first[0], second[0]
    if address != other:
        return 0
    n = min(len(a), len(b))
    differs = np.frombuffer(a[:n], np.uint8) != np.frombuffer(b[:n], np.uint8)
    return int(differs.argmax()) if differs.any() else n
