"""Writes and reads packed files, which hold an `IntegerNetwork` as safetensors with one bit per binary weight.

docs/packed_format.md describes the format. Writing is reproducible: the same network always gives the same
bytes. Reading executes nothing and checks everything, the cheap things first. Whatever is wrong with a file
raises a `PackedError`.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors

from qresnet_jax.errors import PackedError
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.arrays import TENSOR_DTYPES, NodeReader, NodeWriter
from qresnet_jax.system.files import as_path, write_all

FORMAT = "qresnet_jax packed network"
VERSION = 2
READABLE = ("1", "2")  # what version 1 has, version 2 has in the same form
_CODES = {
    "I8": "|i1",
    "U8": "|u1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
}  # safetensors' dtypes as NumPy writes them


def read_packed(path: str | os.PathLike[str]) -> IntegerNetwork:
    """Reads the network of a packed file, for engines and writers.

    Raises:
      PackedError: if this version cannot read the file; the message says why.
    """
    return _parse(_read_bytes(path), path)


def save_packed(network: IntegerNetwork, path: str | os.PathLike[str]) -> None:
    """Writes a network as a packed file. A file that is already at `path` is replaced at once or not at all.

    Args:
      network: a network from `fold`.
      path: path of the file.

    Raises:
      UserError: if the file cannot be written.
    """
    write_all({as_path(path): packed_bytes(network)})


def packed_bytes(network: IntegerNetwork) -> bytes:
    """Returns the content of the file that `save_packed` writes."""
    writer = NodeWriter()
    description = {
        "nodes": [writer.write(i, node) for i, node in enumerate(network.nodes)],
        "fraction_bits": network.fraction_bits,
        "logit_scale": network.logit_scale,
    }
    preprocessing = {
        "mean": network.mean.tolist(),
        "height": network.height,
        "width": network.width,
        "channels": network.channels,
    }
    metadata = {
        "format": FORMAT,
        "version": str(VERSION),
        "network": _json(description),
        "preprocessing": _json(preprocessing),
        "class_names": _json(network.class_names),
    }
    tensors = writer.tensors()
    metadata["sha256"] = _checksum(metadata, tensors)
    return _safetensors(tensors, metadata)


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, np.ndarray]) -> str:
    """Returns the hexadecimal SHA-256 of everything else in the file, in sorted order."""
    digest = hashlib.sha256()
    for key in sorted(metadata):
        if key != "sha256":
            digest.update(f"{key}={metadata[key]}\n".encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"{name} {x.dtype.str} {len(x)}\n".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def _safetensors(tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Returns the bytes of a safetensors file. The library cannot be used: it writes the metadata in random order."""
    names = {dtype: name for name, dtype in _CODES.items()}
    header: dict[str, Any] = {"__metadata__": metadata}
    offset = 0
    # In this order all tensors are aligned.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0]))
    for name, x in ordered:
        end = offset + x.nbytes
        header[name] = {"dtype": names[x.dtype.str], "shape": [len(x)], "data_offsets": [offset, end]}
        offset = end
    text = _json(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(x.tobytes() for _, x in ordered)


def _read_bytes(path: str | os.PathLike[str]) -> bytes:
    try:
        return as_path(path).read_bytes()
    except OSError as error:
        raise PackedError(f"{path} cannot be read: {error.strerror}") from error


def _parse(data: bytes, path: str | os.PathLike[str]) -> IntegerNetwork:
    header = _header(data, path)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or metadata.get("format") != FORMAT:
        raise PackedError(
            f"{path} is a safetensors file, but not a packed network: its metadata has no format={FORMAT!r}. Write "
            "one with --mode=export --config.export.format=packed"
        )
    version = metadata.get("version")
    if version not in READABLE:
        newer = isinstance(version, str) and version.isdecimal() and int(version[:9]) > VERSION
        way_out = "update qresnet_jax" if newer else "write it again"
        raise PackedError(
            f"{path} has version {version!r:.20}, but this program reads versions up to {VERSION}: {way_out}"
        )
    tensors = _tensors(data, path)
    if metadata.get("sha256") != _checksum(metadata, tensors):
        raise PackedError(
            f"{path} is damaged: its SHA-256 is not that of its contents. Fetch or write it again"
        )
    try:
        return _network(metadata, tensors)
    except (ValueError, RecursionError) as error:
        raise PackedError(f"{path} describes no network: {error}") from error


def _header(data: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    try:
        if len(data) < 8 or data[8:9] != b"{":
            raise ValueError
        if len(data) < 8 + length:
            raise PackedError(
                f"{path} is truncated: its header should have {length} bytes, but only {len(data) - 8} are there"
            )
        header = json.loads(data[8 : 8 + length].decode())
        if not isinstance(header, dict):
            raise ValueError
    except (ValueError, RecursionError):
        raise PackedError(
            f"{path} is not a safetensors file, or its header is damaged: fetch or write it again"
        ) from None
    return header


def _tensors(data: bytes, path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Returns the tensors by name. Each has one dimension, and the dtype that packed files have for its name."""
    try:
        stored = safetensors.deserialize(data)
    except safetensors.SafetensorError as error:
        raise PackedError(f"{path} is truncated or damaged: {error}") from None
    tensors = {}
    for name, x in stored:
        expected = TENSOR_DTYPES.get(name)
        if expected is None or _CODES.get(x["dtype"]) != expected or len(x["shape"]) != 1:
            raise PackedError(
                f"{path} has a tensor {name!r:.40} of {x['dtype']} {x['shape']}; packed files may have, with one dimension: "
                + ", ".join(f"{n} {d}" for n, d in TENSOR_DTYPES.items())
            )
        tensors[name] = np.frombuffer(x["data"], expected)
    return tensors


def _network(metadata: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> IntegerNetwork:
    description, preprocessing = _object(metadata, "network"), _object(metadata, "preprocessing")
    names = json.loads(metadata.get("class_names", "null"))
    if names is not None and not (isinstance(names, list) and all(isinstance(n, str) for n in names)):
        raise ValueError("class_names must be a list of names, or null")
    size = [preprocessing.get(key) for key in ("height", "width")]
    scale, bits, entries = (description.get(key) for key in ("logit_scale", "fraction_bits", "nodes"))
    if type(scale) is not float or type(bits) is not int or not isinstance(entries, list):
        raise ValueError(
            "network must have logit_scale (a float), fraction_bits (an integer) and nodes (a list)"
        )
    if not all(value is None or type(value) is int for value in size):
        raise ValueError(f"height and width must be integers or null, got {size}")
    double_mean = _double_mean(preprocessing.get("mean"))
    reader = NodeReader(tensors, double_mean)
    nodes = tuple(reader.read(i, entry) for i, entry in enumerate(entries))
    reader.finish()
    network = IntegerNetwork(nodes, bits, scale, None if names is None else tuple(names), *size)
    if preprocessing.get("channels") != network.channels:
        raise ValueError(
            f"channels must be {network.channels}, as many as the stem has, got {preprocessing.get('channels')!s:.20}"
        )
    return network


def _object(metadata: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = json.loads(metadata.get(key, "null"))
    if not isinstance(value, dict):
        raise ValueError(f"metadata {key!r} must be a JSON object")
    return value


def _double_mean(mean: Any) -> np.ndarray:
    known = isinstance(mean, list) and all(type(m) is float and math.isfinite(m) for m in mean)
    if not known or any(not 0 <= m <= 255 or 2 * m != int(2 * m) for m in mean):
        raise ValueError(f"mean must be a list of multiples of 1/2 from 0 to 255, got {mean!s:.60}")
    return np.array([int(2 * m) for m in mean], np.int16)
