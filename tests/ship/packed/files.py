"""Packed files in the hands of tests: taken apart, put together, and compared."""

import hashlib

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save


def assert_same(a, b):
    """All fields and arrays, to the bit."""
    for name in ("fraction_bits", "logit_scale", "class_names", "height", "width"):
        assert getattr(a, name) == getattr(b, name)
    assert len(a.nodes) == len(b.nodes)
    for x, y in zip(a.nodes, b.nodes, strict=True):
        assert_same_node(x, y)


def assert_same_node(x, y):
    assert type(x) is type(y)
    for name, value in vars(x).items():
        other = getattr(y, name)
        if isinstance(value, np.ndarray):
            assert (value.dtype, value.shape) == (other.dtype, other.shape)
            np.testing.assert_array_equal(value, other)
        else:
            assert (value, type(value)) == (other, type(other))


def parts(path):
    """`(metadata, tensors)` of any safetensors file, by the library."""
    with safe_open(path, framework="numpy") as file:
        return dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def sign(metadata, tensors):
    """The metadata with the checksum that the document defines."""
    text = b"".join(f"{k}={v}\n".encode() for k, v in sorted(metadata.items()) if k != "sha256")
    for name, x in sorted(tensors.items()):
        text += f"{name} {x.dtype.str} {x.size}\n".encode() + x.tobytes()
    return {**metadata, "sha256": hashlib.sha256(text).hexdigest()}


def rewrite(path, metadata, tensors, signed=True):
    path.write_bytes(save(tensors, sign(metadata, tensors) if signed else metadata))
