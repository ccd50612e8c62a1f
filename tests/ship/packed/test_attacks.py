"""Whatever comes, a PackedError or the same network."""

import copy
import json
import random

import numpy as np
import pytest
from safetensors.numpy import save

from qresnet_jax.errors import PackedError
from qresnet_jax.ship import reference
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.file import read_packed, save_packed
from tests.ship.every_node import NODES
from tests.ship.packed.files import assert_same, parts, rewrite, sign


def read_or_refuse(path, data):
    path.write_bytes(data)
    try:
        return read_packed(path)
    except PackedError as error:
        assert str(path) in str(error)
        return None


def test_thousands_of_damaged_files_are_refused_or_read_alike(network, path):
    rng, data = random.Random(0), path.read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    read = 0
    for i in range(2500):
        damaged = bytearray(data)
        end = header if i % 2 else len(data)  # half of all in the header
        match rng.randrange(4):
            case 0:
                for _ in range(rng.choice((1, 1, 2, 8))):
                    damaged[rng.randrange(end)] ^= 1 << rng.randrange(8)
            case 1:
                damaged[rng.randrange(end)] = rng.choice(b'{}[]",:0123456789\x00\xff-e. ')
            case 2:
                del damaged[rng.randrange(end) :]
            case 3:
                start = rng.randrange(end)
                damaged[start : start + rng.randrange(4)] = rng.randbytes(rng.randrange(4))
        result = read_or_refuse(path, damaged)
        if result is not None:
            read += 1
            assert_same(result, network)
    assert read < 250  # such as a space for a space


def _edits(value, where=()):
    """Paths to everything in a JSON value."""
    yield where
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, child in children:
        yield from _edits(child, (*where, key))


ODD = [
    None,
    True,
    False,
    0,
    1,
    2,
    3,
    -1,
    7,
    2**31,
    2**70,
    0.5,
    float("nan"),
    float("inf"),
    "",
    "x",
    [],
    {},
    [[]],
    [0],
]


@pytest.mark.parametrize("name", ["trained", "with all nodes"])
def test_thousands_of_forged_descriptions_are_refused_or_run(name, network, path, make_images):
    """Each with a right checksum, so that the structure alone stands in their way."""
    if name == "with all nodes":
        network = IntegerNetwork(NODES, 8, 0.5)
        save_packed(network, path)
    rng, size = random.Random(1), (network.height or 33, network.width or 21)
    images = make_images(1, (*size, network.channels))
    metadata, tensors = parts(path)
    keys = ("network", "preprocessing", "class_names")
    trees = {key: json.loads(metadata[key]) for key in keys}
    accepted, run = 0, 0
    for _ in range(1200):
        forged = copy.deepcopy(trees)
        for _ in range(rng.choice((1, 1, 2))):
            *parents, last = rng.choice([(key, *e) for key in keys for e in _edits(forged[key])])
            parent = forged
            for step in parents:
                parent = parent[step]
            if rng.random() < 0.15 and isinstance(parent, (dict, list)) and len(parents):
                del parent[last]
            else:
                parent[last] = rng.choice(
                    [*ODD, copy.deepcopy(parent[last]), copy.deepcopy(trees["network"]["nodes"][5])]
                )
        odd = {name: x.copy() for name, x in tensors.items()}
        if rng.random() < 0.3:
            x = odd[rng.choice(sorted(odd))]
            x[rng.randrange(len(x))] = rng.choice((0, 1, np.iinfo(x.dtype).max, np.iinfo(x.dtype).min))
        changed = {**metadata, **{key: json.dumps(forged[key]) for key in keys}}
        result = read_or_refuse(path, save(odd, sign(changed, odd)))
        if result is not None:
            accepted += 1
            if result.takes(images.shape[1:]):
                run += 1
                assert reference.logits(result, images).shape == (1, result.classes)
    assert 20 < run <= accepted < 600


def test_text_that_is_no_text_is_refused(path):
    data, (metadata, tensors) = path.read_bytes(), parts(path)
    for old, new in (
        (b'"format"', b'"f\\ud80"'),
        (b"stages", b"\xff\xff\xff\xff\xff\xff"),
        (b'"sha256"', b'"\\ud800"'),
    ):
        assert old in data
        assert read_or_refuse(path, data.replace(old, new, 1)) is None
    rewrite(path, {**metadata, "class_names": '["\\ud800","b","c","d","e"]'}, tensors)
    assert read_packed(path).class_names[0] == "\ud800"  # odd, but a name
    save_packed(read_packed(path), path)
    assert read_packed(path).class_names[0] == "\ud800"
