import copy
import errno
import hashlib
import json
import pathlib
import random
import re

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save

from qresnet_jax.errors import PackedError, UserError
from qresnet_jax.ship import reference
from qresnet_jax.ship.nodes import BinaryConvNode, ThresholdsNode
from qresnet_jax.ship.packed.arrays import pack_signs, unpack_signs
from qresnet_jax.ship.packed.file import read_packed, save_packed

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "packed_format.md"


def assert_same(a, b):
    """All fields and arrays, to the bit."""
    for name in ("fraction_bits", "logit_scale", "class_names", "height", "width"):
        assert getattr(a, name) == getattr(b, name)
    assert len(a.nodes) == len(b.nodes)
    for x, y in zip(a.nodes, b.nodes, strict=True):
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


def test_what_is_read_is_what_was_written(trained, tmp_path):
    _, network = trained
    save_packed(network, tmp_path / "a")
    again = read_packed(tmp_path / "a")
    assert_same(again, network)
    save_packed(again, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_resnet_20_takes_less_than_48_kilobytes(trained_named, tmp_path):
    save_packed(trained_named("resnet20")[1], tmp_path / "resnet20")
    assert (tmp_path / "resnet20").stat().st_size < 48_000
    _, tensors = parts(tmp_path / "resnet20")
    assert tensors["signs"].nbytes == 269_824 // 8


def test_a_weight_takes_one_bit_and_the_first_is_the_lowest():
    signs = np.array([1, -1, 1, 1, -1, -1, -1, -1, 1], np.int8)
    assert pack_signs(signs).tolist() == [0b1101, 0b1]
    np.testing.assert_array_equal(unpack_signs(pack_signs(signs), 9), signs)


def test_the_reader_of_the_document_reads(trained, tmp_path):
    _, network = trained
    save_packed(network, tmp_path / "net")
    code = re.search(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1]
    assert code.count("\n") <= 40
    assert re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE) == [
        "json",
        "math",
        "numpy",
        "safetensors",
    ]
    namespace = {}
    exec(code, namespace)
    signs, thresholds = namespace["read"](str(tmp_path / "net"))
    convs = {node.name: node for node in network.nodes if isinstance(node, BinaryConvNode)}
    assert list(signs) == list(convs)
    for name, node in convs.items():
        np.testing.assert_array_equal(signs[name], node.signs.transpose(3, 0, 1, 2))
    staircases = [node for node in network.nodes if isinstance(node, ThresholdsNode)]
    for (direction, values), node in zip(thresholds, staircases, strict=True):
        np.testing.assert_array_equal(direction, node.direction)
        np.testing.assert_array_equal(values, node.thresholds)


def test_the_document_names_every_tensor_and_key(path):
    text, (metadata, tensors) = DOCUMENT.read_text(), parts(path)
    for name in (
        *metadata,
        *tensors,
        *json.loads(metadata["network"]),
        *json.loads(metadata["preprocessing"]),
    ):
        assert f"`{name}`" in text, name


def test_the_documented_checksum_is_the_files(path):
    metadata, tensors = parts(path)
    assert metadata == sign(metadata, tensors)


def test_saving_replaces_at_once_and_leaves_nothing_aside(network, path, monkeypatch):
    before = path.read_bytes()
    full = OSError(errno.ENOSPC, "disk full", str(path))
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(full))
    with pytest.raises(UserError, match="disk full"):
        save_packed(network, path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# What is wrong with a file.


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(PackedError, match="nothing.* cannot be read: No such file"):
        read_packed(tmp_path / "nothing")
    with pytest.raises(PackedError, match="cannot be read: Is a directory"):
        read_packed(tmp_path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x89PNG", b"PK\3\4" * 100, b"\2\0\0\0\0\0\0\0{}"[:9], b"\2\0\0\0\0\0\0\0[]", b"\0" * 64],
)
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(PackedError, match="is not a safetensors file|is truncated") as error:
        read_packed(tmp_path / "x")
    assert isinstance(error.value, UserError)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_foreign_safetensors_are_refused(tmp_path, metadata):
    (tmp_path / "x").write_bytes(save({"w": np.zeros(3, np.float32)}, metadata))
    with pytest.raises(PackedError, match="is a safetensors file, but not a packed network"):
        read_packed(tmp_path / "x")


@pytest.mark.parametrize(
    "version, message",
    [
        ("2", "has version '2', .* version 1: update qresnet_jax"),
        ("0", "write it again"),
        ("x", "write it again"),
    ],
)
def test_other_versions_are_refused(path, version, message):
    metadata, tensors = parts(path)
    rewrite(path, {**metadata, "version": version}, tensors)
    with pytest.raises(PackedError, match=message):
        read_packed(path)


def test_a_newer_version_is_recognised_whatever_else_it_holds(path):
    path.write_bytes(save({"new": np.zeros((2, 2), np.float16)}, {**parts(path)[0], "version": "12"}))
    with pytest.raises(PackedError, match="update qresnet_jax"):
        read_packed(path)


def test_truncated_files_are_refused(path):
    data = path.read_bytes()
    for length in (7, 8, 9, 500, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(PackedError, match="is not a safetensors file|is truncated"):
            read_packed(path)


def test_damaged_tensors_and_metadata_fail_the_checksum(path):
    metadata, tensors = parts(path)
    tensors["signs"][5] ^= 1
    rewrite(path, metadata, tensors, signed=False)
    with pytest.raises(PackedError, match="is damaged: its SHA-256 is not that of its contents"):
        read_packed(path)
    tensors["signs"][5] ^= 1
    rewrite(path, {**metadata, "class_names": '["b","a","c","d","e"]'}, tensors, signed=False)
    with pytest.raises(PackedError, match="its SHA-256"):
        read_packed(path)
    rewrite(path, metadata, tensors, signed=False)
    assert read_packed(path).class_names == ("a", "b", "c", "d", "e")


def _tensor(name, change):
    return lambda metadata, tensors: tensors.update({name: change(tensors[name])})


def _node(i, **changes):
    def edit(metadata, tensors):
        network = json.loads(metadata["network"])
        network["nodes"][i].update(changes)
        metadata["network"] = json.dumps(network)

    return edit


def _meta(**changes):
    return lambda metadata, tensors: metadata.update(changes)


@pytest.mark.parametrize(
    "edit, message",
    [
        (lambda metadata, tensors: tensors.pop("shifts"), "node 1, requantize: tensor shifts is missing"),
        (_tensor("signs", lambda x: x[:-1]), "tensor signs has .* numbers, but at least"),
        (_tensor("signs", lambda x: np.append(x, x[:1])), "tensor signs has .* numbers, but the nodes use"),
        (_tensor("thresholds", lambda x: x.astype(np.int32)), "has a tensor 'thresholds' of I32"),
        (_tensor("signs", lambda x: x.reshape(1, -1)), r"tensor 'signs' of U8 \[1, "),
        (lambda metadata, tensors: tensors.update(more=np.zeros(2, np.int16)), "has a tensor 'more'"),
        (_tensor("thresholds", lambda x: -np.sort(-x)), "thresholds must ascend"),
        (_tensor("shifts", lambda x: x + np.uint8(50)), "shifts 0 to 40"),
        (_tensor("stem_weights", lambda x: x * 0 + np.int16(32767)), "its sums reach"),
        (_node(0, op="exec"), "node 0 has no known op"),
        (_node(0, op=["stem"]), "node 0 has no known op"),
        (_node(4, name=7), "node 4, binary_conv: its name must be text"),
        (_node(4, stride=0), "stride 0 must be 1 or 2"),
        (_node(4, stride=True), "stride must be integers"),
        (_node(4, inputs=[4]), "must be nodes before it"),
        (_node(4, inputs=[-1]), "inputs must be integers from 0 to"),
        (_node(4, inputs=[3, 3]), "node 4, BinaryConv"),
        (_node(4, shape=[6, 3, 3]), "shape must be 4 sizes"),
        (_node(4, shape=[10**9, 3, 3, 6]), "tensor signs has"),
        (_node(3, shape=[1, 10**9]), "tensor thresholds has"),
        (_node(3, levels=[0, 1]), "3 thresholds need 4 levels"),
        (_node(3, levels=[0, 1, 2, 2**20]), "at most 16384"),
        (_node(3, wide=1), "wide must be true or false"),
        (_node(1, channels=0), "the nodes use"),
        (_meta(network="[]"), "metadata 'network' must be a JSON object"),
        (_meta(network="{"), "describes no network"),
        (_meta(network="[" * 100_000), "describes no network"),
        (_meta(network="{}"), "must have logit_scale"),
        (_meta(preprocessing='{"mean":[127.3,0.0,0.0]}'), "multiples of 1/2"),
        (_meta(preprocessing='{"mean":[127.5]}'), "expected int16 .3,."),
        (_meta(preprocessing='{"mean":[0.0,0.0,0.0],"height":"x"}'), "height and width must be integers"),
        (_meta(class_names='["a"]'), "1 class names for 5 classes"),
        (_meta(class_names="7"), "class_names must be a list"),
    ],
)
def test_files_with_a_right_checksum_are_looked_through(path, edit, message):
    metadata, tensors = parts(path)
    edit(metadata, tensors)
    rewrite(path, metadata, tensors)
    with pytest.raises(PackedError, match=message):
        read_packed(path)


# Attacks: whatever comes, a PackedError or the same network.


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


def test_thousands_of_forged_descriptions_are_refused_or_run(network, path, make_images):
    """Each with a right checksum, so that the structure alone stands in their way."""
    rng, images = random.Random(1), make_images(1, (8, 8, 3))
    metadata, tensors = parts(path)
    keys = ("network", "preprocessing", "class_names")
    trees = {key: json.loads(metadata[key]) for key in keys}
    accepted = 0
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
            size = (result.height or 8, result.width or 8)
            if size == (8, 8):
                assert reference.logits(result, images).shape == (1, 5)
    assert accepted < 600


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
