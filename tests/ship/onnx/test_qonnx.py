"""QONNX's own executor and tools against the NumPy engine, and counts by hand."""

import json
import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import onnx
import pytest
from flax import nnx
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.core.onnx_exec import execute_onnx
from qonnx.util.cleanup import cleanup
from qonnx.util.inference_cost import inference_cost

from qresnet_jax import nn
from qresnet_jax.data.sets import load_dataset
from qresnet_jax.errors import ExportError
from qresnet_jax.quantize import registry
from qresnet_jax.ship import reference
from qresnet_jax.ship.fold import fold
from qresnet_jax.ship.folding import fold_rule
from qresnet_jax.ship.nodes import BinaryConvNode
from qresnet_jax.ship.onnx.qonnx import DOMAIN, write_qonnx
from tests.ship.conftest import as_trained
from tests.ship.every_layer import Layers

DOCUMENT = pathlib.Path(__file__).parents[3] / "docs" / "onnx.md"
UNIFORM = (
    "basic pact",
    "preact_basic lsq",
    "bottleneck fixed",
    "preact_bottleneck sigmoid",
    "basic lsq imagenet",
)


@pytest.fixture
def write(tmp_path):
    """`write(model, network)`: the path of the model's QONNX file."""

    def write(model, network):
        path = tmp_path / "net.onnx"
        names, size = network.class_names, (network.height, network.width)
        write_qonnx(model, path, image_shape=size, mean=network.mean, class_names=names)
        return path

    return write


def execute(path, images):
    """Logits by QONNX's executor, after its cleanup has set the number of images."""
    clean = str(path.with_suffix(".clean"))
    cleanup(str(path), out_file=clean, override_inpsize=len(images))
    model = ModelWrapper(clean)
    (image,), (logits,) = model.graph.input, model.graph.output
    return execute_onnx(model, {image.name: images})[logits.name]


@pytest.mark.parametrize("name", [*UNIFORM, "preact_basic pact"])
def test_the_executor_computes_the_logits_of_the_integer_network(name, trained_named, make_images, write):
    model, network = trained_named(name)
    images = make_images(40, (network.height, network.width, network.channels))
    logits = execute(write(model, network), images)
    assert logits.dtype == np.float32 and len(np.unique(logits[:, 0])) > 20
    # Equal but for the last bits. Where float32 stands at an edge it may round otherwise: here in one image at most.
    integers = reference.logits(network, images) * network.logit_scale
    assert np.sum(np.any(np.abs(logits - integers) > 1e-5, axis=1)) <= 1


def readout(model, images, labels):
    """Gives the classifier the weights that predict the labels best, in least squares, from the features there are."""
    network = fold(model)
    pooled = len(network.nodes) - 2
    means = reference.node_values(network, images, [pooled])[pooled][:, 0, 0]
    features = means * 2.0**-network.fraction_bits
    design = np.c_[features, np.ones(len(features))]
    solution = np.linalg.lstsq(design, np.eye(10)[labels], rcond=1e-6)[0]
    model.classifier.kernel[...] = jnp.float32(solution[:-1])
    model.classifier.bias[...] = jnp.float32(solution[-1])


def test_digits_are_classified_as_by_the_integer_network(build_model, write):
    model, digits = build_model(in_channels=1, num_classes=10, widths=(48,), act_bits=(3,)), load_digits()
    readout(model, digits.train.images[:700], digits.train.labels[:700])
    network = fold(model, class_names=digits.class_names, image_shape=(8, 8))
    images, labels = digits.test
    classes = execute(write(model, network), images).argmax(-1)
    assert len(images) == 360 and np.mean(classes == labels) > 0.6  # by chance 0.1
    assert np.sum(classes != reference.logits(network, images).argmax(-1)) <= 1


def load_digits():
    class Config:
        name = "digits"
        holdout = 0

    return load_dataset(Config)


def test_every_kind_of_layer_has_a_form(write):
    model = as_trained(Layers(nnx.Rngs(0)))
    network = fold(model, mean=100.5, image_shape=Layers.image_size)
    images = np.random.default_rng(0).integers(0, 256, (30, *Layers.image_size, 1)).astype(np.uint8)
    logits = execute(write(model, network), images)
    integers = reference.logits(network, images) * network.logit_scale
    assert len(np.unique(integers)) > 12
    assert np.sum(np.any(np.abs(logits - integers) > 1e-5, axis=1)) <= 1


def test_layers_of_a_users_own_in_front_of_a_quantizer_are_refused(tmp_path):
    class Same(nnx.Module):
        @nn.recorded
        def __call__(self, x):
            return x

    class Net(Layers):
        def __init__(self, rngs):
            super().__init__(rngs)
            self.norm, self.shift = nn.BatchNorm(6, rngs=rngs), Same()

    fold_rule(Same)(lambda folding, step, x: x)
    with pytest.raises(
        ExportError, match="shift stands in front of a quantizer, but has no QONNX form there"
    ):
        write_qonnx(as_trained(Net(nnx.Rngs(0))), tmp_path / "net.onnx", image_shape=Layers.image_size)
    assert not list(tmp_path.iterdir())


# What the tools make of the file.


def tool(module, *args):
    command = [sys.executable, "-m", f"qonnx.util.{module}", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


# ResNet-20 for 32x32 images in 10 classes, by hand.
STEM_MACS = 9 * 3 * 16 * 32 * 32
BINARY_MACS = (
    6 * 9 * 16 * 16 * 32 * 32  # the first stage
    + (9 * 16 * 32 + 5 * 9 * 32 * 32 + 16 * 32) * 16 * 16  # the second, its projection last
    + (9 * 32 * 64 + 5 * 9 * 64 * 64 + 32 * 64) * 8 * 8
)
CLASSIFIER_MACS = 64 * 10
BINARY_WEIGHTS, STEM_WEIGHTS = 269_824, 9 * 3 * 16


@pytest.mark.slow
def test_resnet_20_is_counted_right(trained_named, write):
    path = write(*trained_named("resnet20"))
    cost = inference_cost(str(path), discount_sparsity=False)["total_cost"]
    macs = {name: n for name, n in cost.items() if name.startswith("op_mac")}
    assert macs == {
        "op_mac_INT10_INT11": STEM_MACS,
        "op_mac_UINT2_BIPOLAR": BINARY_MACS,
        "op_mac_SCALEDINT<16>_INT11": CLASSIFIER_MACS,
    }
    assert cost["total_macs"] == STEM_MACS + BINARY_MACS + CLASSIFIER_MACS == 40_813_184
    assert cost["total_bops"] == 10 * 11 * STEM_MACS + 2 * BINARY_MACS + 16 * 11 * CLASSIFIER_MACS
    weights = {name: n for name, n in cost.items() if name.startswith("mem_w")}
    assert weights == {"mem_w_BIPOLAR": BINARY_WEIGHTS, "mem_w_INT11": STEM_WEIGHTS + CLASSIFIER_MACS}
    assert cost["total_mem_w_bits"] == BINARY_WEIGHTS + 11 * (STEM_WEIGHTS + CLASSIFIER_MACS)
    # All 272,474 parameters but gamma and beta of 784 channels and the classifier's bias.
    assert cost["total_mem_w_elems"] == 272_474 - 2 * 784 - 10
    assert cost["unsupported"] == "set()"
    document = DOCUMENT.read_text()
    for number in (STEM_MACS, BINARY_MACS, CLASSIFIER_MACS, cost["total_bops"], cost["total_mem_w_elems"]):
        assert f" {int(number):,} " in document.replace("\n", " ")


def test_bits_are_counted_stage_by_stage(trained_named, write):
    path = write(*trained_named("preact_basic lsq"))
    cost = inference_cost(str(path), discount_sparsity=False)["total_cost"]
    # 9x7 images; 1 bit in the first stage, whose one block has 6 channels; 3 bits in the second, 11 channels at 5x4.
    assert cost["op_mac_BINARY_BIPOLAR"] == 2 * 9 * 6 * 6 * 9 * 7
    assert cost["op_mac_UINT3_BIPOLAR"] == (9 * 6 * 11 + 9 * 11 * 11 + 6 * 11) * 5 * 4


def test_the_command_line_tools_accept_the_file(trained_named, make_images, write, tmp_path):
    model, network = trained_named("basic pact")
    path, clean, cost = write(model, network), tmp_path / "clean.onnx", tmp_path / "cost.json"
    tool("cleanup", path, "--out-file", clean)
    tool("inference_cost", clean, "--output-json", cost)
    convs = [node for node in network.nodes if isinstance(node, BinaryConvNode)]
    total = json.loads(cost.read_text())["total_cost"]
    assert total["mem_w_BIPOLAR"] == sum(node.signs.size for node in convs)
    types = [node.op_type for node in onnx.load(clean).graph.node]
    assert types.count("BipolarQuant") == len(convs) == 5
    np.save(tmp_path / "image.npy", make_images(1, (8, 8, 3)))
    tool("exec_qonnx", clean, tmp_path / "image.npy", "--output-prefix", tmp_path / "out_")
    (out,) = tmp_path.glob("out_*.npy")
    expected = reference.logits(network, make_images(1, (8, 8, 3))) * network.logit_scale
    np.testing.assert_allclose(np.load(out).reshape(1, 5), expected, atol=1e-5)


# What the file is.


def test_files_are_valid_and_run_as_they_are(trained_named, make_images, write):
    model, network = trained_named("basic pact")
    path, images = write(model, network), make_images(1, (8, 8, 3))
    onnx.checker.check_model(str(path), full_check=True)
    written = onnx.load(path)
    opsets = {opset.domain: opset.version for opset in written.opset_import}
    assert opsets == {"": 17, DOMAIN: 1}
    quantizers = [node.op_type for node in written.graph.node if node.domain == DOMAIN]
    assert set(quantizers) == {"Quant", "BipolarQuant"}
    operators = {node.op_type for node in written.graph.node}
    assert {"Conv", "BatchNormalization", "Relu"} <= operators
    logits = execute_onnx(ModelWrapper(str(path)), {"image": images})["logits"]
    expected = reference.logits(network, images) * network.logit_scale
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_names_and_metadata_say_what_they_are(trained_named, write):
    model, network = trained_named("basic pact")
    written = onnx.load(write(model, network))
    (image,), (logits,) = written.graph.input, written.graph.output
    assert (image.name, image.type.tensor_type.elem_type) == ("image", onnx.TensorProto.UINT8)
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim] == [1, 8, 8, 3]
    assert (logits.name, logits.type.tensor_type.elem_type) == ("logits", onnx.TensorProto.FLOAT)
    metadata = {prop.key: prop.value for prop in written.metadata_props}
    assert json.loads(metadata["class_names"]) == ["a", "b", "c", "d", "e"]
    assert json.loads(metadata["mean"]) == [127.5, 10.0, 200.5]
    assert float(metadata["logit_scale"]) == 1
    assert "stages.1.0.project/BipolarQuant" in [node.name for node in written.graph.node]


def test_binary_kernels_are_the_trained_ones(trained_named, write):
    model, network = trained_named("basic pact")
    written = onnx.load(write(model, network))
    constants = {x.name: onnx.numpy_helper.to_array(x) for x in written.graph.initializer}
    named = [(f"stages.{i}.{j}", b) for i, stage in enumerate(model.stages) for j, b in enumerate(stage)]
    for name, block in named:
        convs = {f"convs.{i}": conv for i, conv in enumerate(block.convs)}
        for part, conv in [*convs.items(), *([("project", block.project)] if block.project else [])]:
            kernel = np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1)
            np.testing.assert_array_equal(constants[f"{name}.{part}/kernel"], kernel)


@pytest.mark.parametrize("activation", sorted(registry.QUANTIZERS))
def test_every_quantizer_has_a_form_or_is_refused(activation, build_model, tmp_path):
    model = build_model(activation)
    if activation != "power_of_two":
        write_qonnx(model, tmp_path / "net.onnx", image_shape=(6, 6))
        return
    with pytest.raises(
        ExportError, match="stages.0.0.acts.0 has PowerOfTwo activations.*model.activation=pact"
    ):
        write_qonnx(model, tmp_path / "net.onnx", image_shape=(6, 6))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weight_bits": 32, "activation": "none"}, "float weights.*config.model.weight_bits=1"),
        ({"activation": "none"}, "stages.0.0 has float activations.*config.model.activation"),
    ],
)
def test_float_networks_are_refused(changes, message, build_model, tmp_path):
    with pytest.raises(ExportError, match=message):
        write_qonnx(build_model(**changes), tmp_path / "net.onnx", image_shape=(6, 6))
