"""onnxruntime and the reference evaluator of the package onnx against the NumPy engine, node by node."""

import dataclasses
import errno
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.deploy import nodes, numpy_engine, onnx_graph
from qresnet_jax.deploy.nodes import IntegerNetwork
from qresnet_jax.deploy.onnx_writer import onnx_model, write_onnx
from qresnet_jax.deploy.packed import save_packed
from qresnet_jax.errors import ExportError, UserError

DOCUMENT = pathlib.Path(__file__).parents[2] / "docs" / "onnx.md"


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model, images):
    return session(model).run(["logits"], {"image": images})[0]


def all_results(network, images):
    """What onnxruntime computes for every node, by position, in the layout of `numpy_engine.evaluate`."""
    model = onnx_model(network)
    position = {onnx_graph.layer_name(network, i): i for i in range(len(network.nodes))}
    # The last operator of a layer makes the result of its node.
    names = {position[node.name.rsplit("/", 1)[0]]: node.output[0] for node in model.graph.node}
    shapes = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(shapes[name] for name in names.values() if name != "logits")
    results = session(model).run(list(names.values()), {"image": images})
    return {i: np.moveaxis(x, 1, -1) if x.ndim == 4 else x for i, x in zip(names, results, strict=True)}


def assert_same_results(network, images):
    expected, results = numpy_engine.evaluate(network, images), all_results(network, images)
    assert len(results) == len(network.nodes)
    for i, node in enumerate(network.nodes):
        np.testing.assert_array_equal(results[i], expected[i], err_msg=f"{i} {type(node).__name__}")


def test_every_node_of_trained_networks_gives_the_same_integers(trained, make_images):
    _, network = trained
    assert_same_results(network, make_images(5, (network.height, network.width, network.channels)))


def test_logits_of_trained_networks_are_the_same_integers(trained, make_images, tmp_path):
    _, network = trained
    images = make_images(21, (network.height, network.width, network.channels))
    write_onnx(network, tmp_path / "net.onnx")
    logits = run(str(tmp_path / "net.onnx"), images)
    assert logits.dtype == np.int32
    np.testing.assert_array_equal(logits, numpy_engine.logits(network, images))
    assert len(np.unique(logits[:, 0])) > 12


# Random networks, with values of all sizes.

STAIRS = (1, 2, 3, 5, 7, 15, 63, 64, 127, 255, 300)


class Builder:
    """Appends random nodes; methods return the position of the last one."""

    def __init__(self, seed):
        self.rng, self.nodes = np.random.default_rng(seed), []

    def add(self, node):
        self.nodes.append(node)
        return len(self.nodes) - 1

    def coin(self):
        return self.rng.random() < 0.5

    def signs(self, *shape):
        return self.rng.choice(np.array([-1, 1], np.int8), shape)

    def integers(self, reach, shape, dtype):
        return self.rng.integers(-reach, reach, shape, endpoint=True).astype(dtype)

    def stem(self, channels, out, kernel, stride):
        largest = min(2**15 - 1, (2**24 - 1) // (510 * kernel**2 * channels))
        weights = self.integers(largest, (kernel, kernel, channels, out), np.int16)
        mean = self.rng.integers(0, 511, channels).astype(np.int16)
        return self.add(nodes.Stem(weights=weights, double_mean=mean, stride=stride))

    def requantize(self, x, channels, bound):
        """Onto all of int16 and beyond, by shifts from 0 to 40."""
        m = self.integers(2 ** self.rng.integers(1, 32) - 1, channels, np.int32)
        largest = bound * max(int(np.abs(m.astype(np.int64)).max()), 1)
        shift = np.clip(largest.bit_length() - 15 + self.rng.integers(-3, 3, channels), 0, 40)
        offset = self.integers(largest, channels, np.int64)
        node = nodes.Requantize(inputs=(x,), multiplier=m, offset=offset, shift=shift.astype(np.uint8))
        return self.add(node)

    def thresholds(self, x, channels, bound):
        n = int(self.rng.choice(STAIRS))
        rows = 1 if self.coin() else channels
        values = self.integers(max(bound >> self.rng.integers(0, 8), 1), (rows, n), np.int32)
        extremes = np.iinfo(np.int32)
        values[self.rng.random(values.shape) < 0.1] = extremes.min
        values[self.rng.random(values.shape) < 0.1] = extremes.max
        levels = np.arange(n + 1)
        if self.coin():
            levels[1:] = np.sort(self.rng.choice(np.arange(1, 2**14 + 1), n, replace=False))
        node = nodes.Thresholds(
            inputs=(x,),
            thresholds=np.sort(values, axis=1),
            direction=self.signs(rows),
            levels=levels.astype(np.int32),
        )
        return self.add(node)

    def conv(self, x, channels, out, kernel, stride):
        """The position and the bound."""
        signs = self.signs(kernel, kernel, channels, out)
        bound = int(self.nodes[x].levels[-1]) * kernel**2 * channels
        return self.add(nodes.BinaryConv(inputs=(x,), signs=signs, stride=stride)), bound

    def block(self, x, channels):
        """Position and channels; with projection or identity, with one convolution or two."""
        identity = self.coin()
        out = channels if identity else int(self.rng.integers(1, 10))
        kernel, stride = int(self.rng.choice([1, 3, 5, 7])), 1 if identity else int(self.rng.integers(1, 3))
        levels = self.thresholds(x, channels, 2**15)
        acc, bound = self.conv(levels, channels, out, kernel, stride)
        if self.coin():
            acc, bound = self.conv(self.thresholds(acc, out, bound), out, out, 3, 1)
        y = self.requantize(acc, out, bound)
        if not identity:
            acc, bound = self.conv(levels, channels, out, 1, stride)
            x = self.requantize(acc, out, bound)
        y = self.add(nodes.Add(inputs=(y, x)))
        return self.add(nodes.Relu(inputs=(y,))) if self.coin() else y, out


def random_network(seed, blocks=2, **fields):
    build = Builder(seed)
    channels, out = (int(n) for n in build.rng.integers(1, 8, 2))
    kernel = int(build.rng.choice([1, 3, 5, 7]))
    x = build.stem(channels, out, kernel, int(build.rng.integers(1, 3)))
    x = build.requantize(x, out, 2**24)
    if build.coin():
        x = build.add(nodes.MaxPool(inputs=(x,)))
    for _ in range(blocks):
        x, out = build.block(x, out)
    x = build.add(nodes.MeanPool(inputs=(build.requantize(x, out, 2**15),)))
    classes = int(build.rng.integers(1, 12))
    largest = 2**31 // (2**15 * out) - 2
    build.add(
        nodes.Classifier(
            inputs=(x,),
            weights=build.integers(min(largest, 2**15 - 1), (out, classes), np.int16),
            bias=build.integers(2**15, classes, np.int32),
        )
    )
    return IntegerNetwork(tuple(build.nodes), fraction_bits=8, logit_scale=0.25, **fields)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 11),
    st.integers(1, 11),
    st.booleans(),
)
def test_every_node_of_random_networks_gives_the_same_integers(seed, height, width, tied):
    network = random_network(seed, **({"height": height, "width": width} if tied else {}))
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, height, width, network.channels)).astype(np.uint8)
    images[0] = 255 * rng.integers(0, 2, images[0].shape)
    assert_same_results(network, images)
    np.testing.assert_array_equal(run(onnx_model(network), images), numpy_engine.logits(network, images))


def chain(channels, *middle):
    """A network of a stem that gives `2 * pixel - 255`, the nodes of `middle`, a pool and a classifier, one by one."""
    one, zero = np.ones(channels), np.zeros(channels)
    kernel = np.eye(channels, dtype=np.int16)[None, None]
    sequence = (
        nodes.Stem(weights=kernel, double_mean=np.full(channels, 255, np.int16)),
        *middle,
        nodes.Requantize(
            multiplier=one.astype(np.int32), offset=zero.astype(np.int64), shift=zero.astype(np.uint8)
        ),
        nodes.MeanPool(),
        nodes.Classifier(weights=np.ones((channels, 2), np.int16), bias=np.zeros(2, np.int32)),
    )
    linked = (dataclasses.replace(node, inputs=(i - 1,) if i else ()) for i, node in enumerate(sequence))
    return IntegerNetwork(tuple(linked), fraction_bits=8, logit_scale=1.0)


def all_pixels(channels):
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), channels, axis=3)


def test_shifts_round_down_and_saturate_at_all_extremes():
    node = nodes.Requantize(
        multiplier=np.array([2**31 - 1, -(2**31), 1, -1, 0, 1, 3, -3, 2**31 - 1], np.int32),
        offset=np.array([2**60 - 2**10, 2**10 - 2**60, 0, 0, -1, 2**15 - 255, 1, 1, 0], np.int64),
        shift=np.array([40, 40, 1, 1, 40, 0, 2, 3, 23], np.uint8),
    )
    network = chain(9, node)
    assert_same_results(network, all_pixels(9))
    stream = all_results(network, all_pixels(9))[1]
    assert (stream.min(), stream.max()) == (-(2**15), 2**15 - 1)
    # -1 >> 1 is -1, where a division towards zero would give 0.
    assert stream[0, 7, 15, 2] == -1 and np.all(stream[..., 4] == -1)


@pytest.mark.parametrize("n", [2, 3, 200])
def test_thresholds_at_the_ends_of_int32(n):
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    values = np.full((5, n), high, np.int32)
    values[0], values[1, :2], values[2, :2], values[3, : n - 1] = low, [low, -255], [254, 255], low
    node = nodes.Thresholds(
        thresholds=values,
        direction=np.array([1, 1, 1, -1, -1], np.int8),
        levels=np.arange(n + 1, dtype=np.int32),
    )
    network = chain(5, node, nodes.BinaryConv(signs=np.ones((1, 1, 5, 5), np.int8)))
    assert_same_results(network, all_pixels(5))


def test_sums_are_exact_up_to_2_to_the_24():
    # The first channel has the largest weights that the stem may have; the other ones make its sum odd.
    weights = np.ones((1, 1, 3, 2), np.int16)
    weights[..., 0] = [[[32_767, 127, 1]]]
    stem = nodes.Stem(weights=weights, double_mean=np.array([510, 510, 509], np.int16))
    _, *rest = chain(2).nodes
    network = IntegerNetwork((stem, *rest), fraction_bits=8, logit_scale=1.0)
    images = np.zeros((1, 1, 2, 3), np.uint8)
    images[0, 0, 1] = 255
    assert all_results(network, images)[0][0, 0, 0, 0] == -(510 * (32_767 + 127) + 509)
    assert_same_results(network, images)


def test_the_package_onnx_computes_the_same_integers(trained_named, make_images):
    """A second implementation of the operators, in NumPy."""
    _, network = trained_named("basic power_of_two")
    images = make_images(3, (7, 6, 3))
    (logits,) = onnx.reference.ReferenceEvaluator(onnx_model(network)).run(None, {"image": images})
    np.testing.assert_array_equal(logits, numpy_engine.logits(network, images))


def test_convolutions_may_be_a_little_off(trained_named, make_images):
    """As with Winograd's algorithm, which runtimes for other processors may choose."""
    _, network = trained_named("basic pact")
    images, model = make_images(9, (8, 8, 3)), onnx_model(network)
    for i, node in reversed(list(enumerate(model.graph.node))):
        if node.op_type == "Conv":
            sums, node.output[0] = node.output[0], node.output[0] + "/off"
            noise = onnx.numpy_helper.from_array(np.float32(-0.3), f"noise_{i}")
            model.graph.initializer.append(noise)
            add = onnx.helper.make_node("Add", [node.output[0], noise.name], [sums])
            model.graph.node.insert(i + 1, add)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 6
    np.testing.assert_array_equal(run(model, images), numpy_engine.logits(network, images))


# What the file is.


def test_files_are_valid_and_old_enough_for_old_runtimes(trained, tmp_path):
    _, network = trained
    write_onnx(network, tmp_path / "net.onnx")
    onnx.checker.check_model(str(tmp_path / "net.onnx"), full_check=True)
    model = onnx.load(tmp_path / "net.onnx")
    onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert {node.domain for node in model.graph.node} == {""}
    known = {value.name for value in [*model.graph.value_info, *model.graph.output]}
    assert known == {name for node in model.graph.node for name in node.output}


def test_inputs_outputs_and_metadata_say_what_they_are(trained_named, tmp_path):
    _, network = trained_named("basic pact")
    write_onnx(network, tmp_path / "net.onnx")
    loaded = session(str(tmp_path / "net.onnx"))
    (image,), (logits,) = loaded.get_inputs(), loaded.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", 8, 8, 3])
    assert (logits.name, logits.type, logits.shape) == ("logits", "tensor(int32)", ["N", 5])
    metadata = loaded.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["class_names"]) == ["a", "b", "c", "d", "e"]
    assert float(metadata["logit_scale"]) == network.logit_scale
    assert json.loads(metadata["mean"]) == [127.5, 10.0, 200.5]
    assert "uint8" in metadata["description"]
    names = [node.name for node in onnx.load(tmp_path / "net.onnx").graph.node]
    assert len(set(names)) == len(names)
    assert {"stages.0.0.convs.0/Conv", "stages.1.0.project/Conv", "classifier/MatMul"} <= set(names)


def test_networks_without_names_and_sizes(tmp_path):
    network = random_network(7)
    write_onnx(network, tmp_path / "net.onnx")
    loaded = session(str(tmp_path / "net.onnx"))
    assert loaded.get_inputs()[0].shape == ["N", "H", "W", network.channels]
    assert loaded.get_modelmeta().custom_metadata_map["class_names"] == "null"
    for n, height, width in ((1, 1, 1), (2, 9, 4), (5, 16, 16)):
        images = (
            np.random.default_rng(n).integers(0, 256, (n, height, width, network.channels)).astype(np.uint8)
        )
        logits = loaded.run(None, {"image": images})[0]
        np.testing.assert_array_equal(logits, numpy_engine.logits(network, images))


def test_any_number_of_images_even_none(trained_named, make_images):
    _, network = trained_named("basic pact")
    images, loaded = make_images(40, (8, 8, 3)), session(onnx_model(network))
    for n in (0, 1, 40):
        logits = loaded.run(None, {"image": images[:n]})[0]
        assert logits.shape == (n, 5)
        np.testing.assert_array_equal(logits, numpy_engine.logits(network, images[:n]))


def test_layers_of_one_name_are_told_apart(make_images):
    network = random_network(3)
    same = tuple(dataclasses.replace(node, name="image") for node in network.nodes)
    images = make_images(4, (6, 6, network.channels))
    logits = run(onnx_model(dataclasses.replace(network, nodes=same)), images)
    np.testing.assert_array_equal(logits, numpy_engine.logits(network, images))


def test_the_same_network_gives_the_same_bytes(trained_named, tmp_path):
    _, network = trained_named("preact_basic lsq")
    for name in "ab":
        write_onnx(network, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_resnet_20_stores_a_byte_per_weight(trained_named, tmp_path):
    write_onnx(trained_named("resnet20")[1], tmp_path / "net.onnx")
    assert 269_824 < (tmp_path / "net.onnx").stat().st_size < 400_000


def test_a_failed_write_leaves_the_old_file(trained_named, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "disk full")

    _, network = trained_named("basic pact")
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="disk full"):
        write_onnx(network, path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["net.onnx"]


def test_without_the_package_onnx_the_message_says_so(trained_named, tmp_path, monkeypatch):
    _, network = trained_named("basic pact")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match="pip install onnx"):
        write_onnx(network, tmp_path / "net.onnx")


def test_the_programs_of_the_document_run(trained_named, make_images, tmp_path, monkeypatch):
    """Of all three formats, in its order."""
    model, network = trained_named("basic pact")
    images = make_images(5, (8, 8, 3))
    save_packed(network, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    known = {
        "images": images,
        "model": model,
        "network": network,
        "mean": network.mean,
        **dict(zip(("height", "width", "channels"), images.shape[1:], strict=True)),
    }
    programs = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    assert len(programs) == 5
    for program in programs:
        exec(program, known)
        if "session = " in program:
            np.testing.assert_array_equal(known["logits"], numpy_engine.logits(network, images))
            assert known["class_names"] == ["a", "b", "c", "d", "e"]
    np.testing.assert_array_equal(known["integers"], numpy_engine.logits(network, images))
    np.testing.assert_allclose(known["logits"], known["integers"] * network.logit_scale, atol=1e-5)


def test_the_writer_imports_neither_onnx_nor_jax_nor_train():
    code = (
        "import qresnet_jax.deploy.onnx_writer, sys; "
        "print([m for m in sys.modules if m in ('onnx', 'jax') or m.startswith('qresnet_jax.train')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
