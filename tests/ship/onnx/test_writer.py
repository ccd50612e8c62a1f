"""onnxruntime and the reference evaluator of the package onnx against the NumPy engine, node by node."""

import dataclasses
import errno
import json
import os
import subprocess
import sys

import numpy as np
import onnx
import onnx.reference
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.errors import ExportError, UserError
from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.onnx import graph as onnx_graph
from qresnet_jax.ship.onnx.writer import onnx_model, write_onnx
from tests.ship.random_networks import random_network


def session(model):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    data = model if isinstance(model, str) else model.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(model, images):
    return session(model).run(["logits"], {"image": images})[0]


def all_results(network, images):
    """What onnxruntime computes for every node, by position, in the layout of `reference.node_values`."""
    model = onnx_model(network)
    position = {onnx_graph.layer_name(network, i): i for i in range(len(network.nodes))}
    # The last operator of a layer makes the result of its node.
    names = {position[node.name.rsplit("/", 1)[0]]: node.output[0] for node in model.graph.node}
    shapes = {value.name: value for value in model.graph.value_info}
    model.graph.output.extend(shapes[name] for name in names.values() if name != "logits")
    results = session(model).run(list(names.values()), {"image": images})
    return {i: np.moveaxis(x, 1, -1) if x.ndim == 4 else x for i, x in zip(names, results, strict=True)}


def assert_same_results(network, images):
    expected, results = reference.node_values(network, images), all_results(network, images)
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
    np.testing.assert_array_equal(logits, reference.logits(network, images))
    assert len(np.unique(logits[:, 0])) > 12


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1))
def test_every_node_of_random_networks_gives_the_same_integers(seed):
    network, size = random_network(seed)
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (3, *size, network.channels)).astype(np.uint8)
    images[0] = 255 * rng.integers(0, 2, images[0].shape)
    assert_same_results(network, images)
    np.testing.assert_array_equal(run(onnx_model(network), images), reference.logits(network, images))


POINT = Window((1, 1))


def times(factor, channels):
    """The stream `factor * x`, saturated."""
    return nodes.RequantizeNode(
        multiplier=np.full(channels, factor, np.int32),
        offset=np.zeros(channels, np.int64),
        shift=np.zeros(channels, np.uint8),
    )


def chain(channels, *middle):
    """A network of a stem that gives `2 * pixel - 255`, the nodes of `middle`, a pool and a classifier, one by one."""
    kernel = np.eye(channels, dtype=np.int16)[None, None]
    sequence = (
        nodes.StemNode(weights=kernel, double_mean=np.full(channels, 255, np.int16), window=POINT),
        *middle,
        nodes.MeanPoolNode(),
        nodes.ClassifierNode(weights=np.ones((channels, 2), np.int16), bias=np.zeros(2, np.int32)),
    )
    linked = (dataclasses.replace(node, inputs=(i - 1,) if i else ()) for i, node in enumerate(sequence))
    return IntegerNetwork(tuple(linked), fraction_bits=8, logit_scale=1.0)


def all_pixels(channels):
    return np.repeat(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), channels, axis=3)


def test_shifts_round_down_and_saturate_at_all_extremes():
    node = nodes.RequantizeNode(
        multiplier=np.array([2**31 - 1, -(2**31), 1, -1, 0, 1, 3, -3, 2**31 - 1], np.int32),
        offset=np.array([2**60 - 2**10, 2**10 - 2**60, 0, 0, -1, 2**15 - 255, 1, 1, 0], np.int64),
        shift=np.array([40, 40, 1, 1, 40, 0, 2, 3, 23], np.uint8),
    )
    network = chain(9, node, times(1, 9))
    assert_same_results(network, all_pixels(9))
    stream = all_results(network, all_pixels(9))[1]
    assert (stream.min(), stream.max()) == (-(2**15), 2**15 - 1)
    # -1 >> 1 is -1, where a division towards zero would give 0.
    assert stream[0, 7, 15, 2] == -1 and np.all(stream[..., 4] == -1)


@pytest.mark.parametrize("n", [2, 3, 63, 64, 200])
def test_thresholds_at_the_ends_of_int32(n):
    low, high = np.iinfo(np.int32).min, np.iinfo(np.int32).max
    values = np.full((5, n), high, np.int32)
    values[0], values[1, :2], values[2, :2], values[3, : n - 1] = low, [low, -255], [254, 255], low
    node = nodes.ThresholdsNode(
        thresholds=values,
        direction=np.array([1, 1, 1, -1, -1], np.int8),
        levels=np.arange(n + 1, dtype=np.int32),
    )
    conv = nodes.BinaryConvNode(signs=np.ones((1, 1, 5, 5), np.int8), window=POINT)
    network = chain(5, node, conv, times(1, 5))
    assert_same_results(network, all_pixels(5))


def test_sums_are_exact_up_to_2_to_the_24():
    # The first channel has the largest weights that the stem may have; the other ones make its sum odd.
    weights = np.ones((1, 1, 3, 2), np.int16)
    weights[..., 0] = [[[32_767, 127, 1]]]
    stem = nodes.StemNode(weights=weights, double_mean=np.array([510, 510, 509], np.int16), window=POINT)
    _, *rest = chain(2, times(1, 2)).nodes
    network = IntegerNetwork((stem, *rest), fraction_bits=8, logit_scale=1.0)
    images = np.zeros((1, 1, 2, 3), np.uint8)
    images[0, 0, 1] = 255
    assert all_results(network, images)[0][0, 0, 0, 0] == -(510 * (32_767 + 127) + 509)
    assert_same_results(network, images)


@pytest.mark.parametrize("window", [None, Window((40, 41), (3, 2)), Window((1, 47)), Window((48, 1), (5, 7))])
def test_means_are_exact_where_sums_are_not_in_float32(window):
    """All around a mean of -32768, 32767 and in between: 40 * 41 * 32767 is more than 2**24."""
    rng = np.random.default_rng(0)
    images = rng.choice(np.array([0, 1, 254, 255], np.uint8), (4, 48, 47, 3))
    images[0], images[1], images[2] = 255, 0, np.where(rng.random((48, 47, 3)) < 0.99, 255, images[2])
    network = chain(3, times(2**7 + 1, 3), nodes.MeanPoolNode(window=window))
    assert_same_results(network, images)
    means = all_results(network, images)[2]
    assert (means.max(), means.min()) == (32767, -32768) and len(np.unique(means)) > 5


def test_halves_are_rounded_up_in_every_window():
    network = chain(1, times(1, 1), nodes.MeanPoolNode(window=Window((1, 4), (1, 4))))
    images = np.uint8([128, 128, 128, 127, 127, 127, 127, 128, 126, 127, 127, 127])  # 2 * pixel - 255 is odd
    means = all_results(network, images.reshape(1, 1, 12, 1))[2]
    assert means.ravel().tolist() == [1, 0, -1]  # of 1/2, -1/2 and -3/2


def test_a_classifier_reads_height_width_channel():
    network = chain(2, times(1, 2))
    stem, stream, _, classifier = network.nodes
    weights = np.arange(3 * 2 * 2 * 5).reshape(12, 5).astype(np.int16) ** 2
    flat = (
        stem,
        stream,
        dataclasses.replace(classifier, inputs=(1,), weights=weights, bias=np.int32([1, 2, 3, 4, 5])),
    )
    images = np.random.default_rng(0).integers(0, 256, (3, 3, 2, 2)).astype(np.uint8)
    assert_same_results(IntegerNetwork(flat, 8, 1.0, height=3, width=2), images)


@pytest.mark.parametrize("seed", [14, 15, 18, 90, 128, 138])
def test_images_of_any_size_from_the_least_on(seed):
    network, _ = random_network(seed)
    assert network.height is None and network.least_size != (1, 1)
    loaded, rng = session(onnx_model(network)), np.random.default_rng(seed)
    for more in ((0, 0), (1, 0), (0, 1), (5, 9)):
        size = np.add(network.least_size, more)
        images = rng.integers(0, 256, (2, *size, network.channels)).astype(np.uint8)
        logits = loaded.run(None, {"image": images})[0]
        np.testing.assert_array_equal(logits, reference.logits(network, images))


def test_the_package_onnx_computes_the_same_integers(trained_named, make_images):
    """A second implementation of the operators, in NumPy."""
    _, network = trained_named("basic power_of_two")
    images = make_images(3, (7, 6, 3))
    (logits,) = onnx.reference.ReferenceEvaluator(onnx_model(network)).run(None, {"image": images})
    np.testing.assert_array_equal(logits, reference.logits(network, images))


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
    np.testing.assert_array_equal(run(model, images), reference.logits(network, images))


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
    network, _ = random_network(4)
    assert (network.height, network.least_size) == (None, (1, 1))
    write_onnx(network, tmp_path / "net.onnx")
    loaded = session(str(tmp_path / "net.onnx"))
    assert loaded.get_inputs()[0].shape == ["N", "H", "W", network.channels]
    assert loaded.get_modelmeta().custom_metadata_map["class_names"] == "null"
    for n, height, width in ((1, 1, 1), (2, 9, 4), (5, 16, 16)):
        images = (
            np.random.default_rng(n).integers(0, 256, (n, height, width, network.channels)).astype(np.uint8)
        )
        logits = loaded.run(None, {"image": images})[0]
        np.testing.assert_array_equal(logits, reference.logits(network, images))


def test_any_number_of_images_even_none(trained_named, make_images):
    _, network = trained_named("basic pact")
    images, loaded = make_images(40, (8, 8, 3)), session(onnx_model(network))
    for n in (0, 1, 40):
        logits = loaded.run(None, {"image": images[:n]})[0]
        assert logits.shape == (n, 5)
        np.testing.assert_array_equal(logits, reference.logits(network, images[:n]))


def test_layers_of_one_name_are_told_apart(make_images):
    network, size = random_network(3)
    same = tuple(dataclasses.replace(node, name="image") for node in network.nodes)
    images = make_images(4, (*size, network.channels))
    logits = run(onnx_model(dataclasses.replace(network, nodes=same)), images)
    np.testing.assert_array_equal(logits, reference.logits(network, images))


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


def test_the_writer_imports_neither_onnx_nor_jax_nor_train():
    code = (
        "import qresnet_jax.ship.onnx.writer, sys; "
        "print([m for m in sys.modules if m in ('onnx', 'jax') or m.startswith('qresnet_jax.train')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]"
