import errno
import json
import pathlib
import re

import numpy as np
import pytest
from safetensors.numpy import save

from qresnet_jax.errors import PackedError, UserError
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.nodes import BinaryConvNode, ThresholdsNode
from qresnet_jax.ship.packed.arrays import TENSOR_DTYPES
from qresnet_jax.ship.packed.file import read_packed, save_packed
from tests.ship.every_node import NODES
from tests.ship.packed.files import assert_same, parts, rewrite, sign
from tests.ship.random_networks import random_network

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "packed_format.md"


def test_what_is_read_is_what_was_written(trained, tmp_path):
    _, network = trained
    save_packed(network, tmp_path / "a")
    again = read_packed(tmp_path / "a")
    assert_same(again, network)
    save_packed(again, tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("seed", range(100))
def test_what_is_read_of_random_networks_is_what_was_written(seed, tmp_path):
    network, _ = random_network(seed)
    save_packed(network, tmp_path / "a")
    assert_same(read_packed(tmp_path / "a"), network)
    save_packed(read_packed(tmp_path / "a"), tmp_path / "b")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_resnet_20_takes_less_than_48_kilobytes(trained_named, tmp_path):
    save_packed(trained_named("resnet20")[1], tmp_path / "resnet20")
    assert (tmp_path / "resnet20").stat().st_size < 48_000
    _, tensors = parts(tmp_path / "resnet20")
    assert tensors["signs"].nbytes == 269_824 // 8


def test_the_reader_of_the_document_reads_trained_networks(trained, tmp_path):
    assert_document_reads(trained[1], tmp_path)


def test_the_reader_of_the_document_reads_groups_and_nodes_without_names(tmp_path):
    assert_document_reads(IntegerNetwork(NODES, 8, 0.5), tmp_path)


def assert_document_reads(network, tmp_path):
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
    convs = {
        node.name or f"node {i}": node
        for i, node in enumerate(network.nodes)
        if isinstance(node, BinaryConvNode)
    }
    assert list(signs) == list(convs)
    for name, node in convs.items():
        np.testing.assert_array_equal(signs[name], node.signs.transpose(3, 0, 1, 2))
    staircases = [node for node in network.nodes if isinstance(node, ThresholdsNode)]
    for (direction, values), node in zip(thresholds, staircases, strict=True):
        np.testing.assert_array_equal(direction, node.direction)
        np.testing.assert_array_equal(values, node.thresholds)


def test_the_document_names_every_tensor_key_node_and_field(path, tmp_path):
    text = DOCUMENT.read_text()
    assert all(f"`{name}`" in text for name in TENSOR_DTYPES)
    save_packed(IntegerNetwork(NODES, 8, 0.5), tmp_path / "all")
    for metadata, tensors in (parts(path), parts(tmp_path / "all")):
        network = json.loads(metadata["network"])
        ops = {entry["op"] for entry in network["nodes"]}
        fields = {field for entry in network["nodes"] for field in entry}
        for name in (*metadata, *tensors, *network, *json.loads(metadata["preprocessing"]), *ops, *fields):
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
        ("3", "has version '3', .* versions up to 2: update qresnet_jax"),
        ("0", "write it again"),
        ("01", "write it again"),
        ("-2", "write it again"),
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
        (_node(4, stride=0), "sizes and strides from 1"),
        (_node(4, stride=[1, 0]), "sizes and strides from 1"),
        (_node(4, stride=2**16), "sizes and strides from 1"),
        (_node(4, stride=True), "stride must be integers"),
        (_node(4, stride=[1, True]), "stride must be integers"),
        (_node(4, stride=1.0), "stride must be integers"),
        (_node(4, stride="2"), "stride must be integers"),
        (_node(4, stride=[2]), "stride must be two numbers"),
        (_node(4, stride=[1, 1, 1]), "stride must be two numbers"),
        (_node(4, stride=2**70), "stride must be integers"),
        (_node(4, stride=[1, 2]), "cannot add"),  # its result has another width than the shortcut
        (_node(4, padding=1), "padding must be two pairs"),
        (_node(4, padding=None), "padding must be two pairs"),
        (_node(4, padding=[[1, 1]]), "padding must be two pairs"),
        (_node(4, padding=[1, 1]), "padding must be integers"),
        (_node(4, padding=[[1, 1], [1]]), "padding must be two numbers"),
        (_node(4, padding=[[1, 1], [1, -1]]), "padding must be integers"),
        (_node(4, padding=[[1, 1], [3, 0]]), "less padding than its size"),
        (_node(4, padding=[[2**31 - 1, 0], [0, 0]]), "less padding than its size"),
        (_node(4, padding=[[0, 0], [0, 0]]), "cannot add"),
        (_node(4, groups=0), "with 0 groups does not fit 6 channels"),
        (_node(4, groups=2), "with 2 groups does not fit 6 channels"),
        (_node(4, groups=-1), "groups must be integers"),
        (_node(4, groups=True), "groups must be integers"),
        (_node(4, groups=[1]), "groups must be integers"),
        (_node(4, groups=2**31 - 1), "does not fit 6 channels"),
        (_node(-2, window=[]), "window must be two numbers"),
        (_node(-2, window=None), "window must be integers"),
        (_node(-2, window=2), "window must be integers"),
        (_node(-2, window=[2, 0]), "sizes and strides from 1"),
        (_node(-2, window=[2**16, 1]), "sizes and strides from 1"),
        (_node(-2, window=[5, 1]), "a window of 5 pixels does not fit 4 pixels"),
        (_node(-2, window=[2, 2]), "expected int16 .99, None."),  # 3x3 means of 11 channels
        (_node(-2, window=[4, 4], padding=[[1, 0], [0, 0]]), "a mean has no padding"),
        (_node(-2, op="max_pool", window=[4, 4], padding=[[4, 0], [0, 0]]), "less padding than its size"),
        (_node(-2, op="max_pool", window=[2**31 - 1, 1]), "sizes and strides from 1"),
        (_node(-2, op="concat"), "Concat.*needs two or more inputs"),
        (_node(-2, op="concat", inputs=[4, 4]), "needs stream, but its input is acc"),
        (_node(-2, op="concat", inputs=[1, 1]), "expected int16"),
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
