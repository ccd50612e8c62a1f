"""Makes the networks for the benchmarks of inference: ours with random weights, and the peer's in float and int8.

The peer is the float twin of our network. It has the same convolutions, with batch norm folded into them, and ReLU, but no
quantizers. Its int8 form comes from static quantization in QDQ form with uint8 activations.
"""

import numpy as np

from qresnet_jax.pixels import normalize

SIZE = 32  # height and width of the images
FLOAT32, INT8 = "onnxruntime fp32", "onnxruntime int8"
ONNX_FILES = {FLOAT32: "float.onnx", INT8: "int8.onnx"}


def random_network(depth=20):
    """Returns the integer network of a ResNet W1A2 as it is before training."""
    from flax import nnx

    from qresnet_jax import create_model, default_config
    from qresnet_jax.ship.fold import fold

    config = default_config()
    config.model.depth = depth
    return fold(create_model(config.model, rngs=nnx.Rngs(0)), image_shape=(SIZE, SIZE))


def onnx_float_network(network):
    """Returns the ONNX model of the same architecture in float with random weights, for images `[N, C, H, W]`."""
    from onnx import TensorProto, checker, helper, numpy_helper

    from qresnet_jax.ship import nodes

    rng = np.random.default_rng(0)
    operations, tensors, names = [], [], []

    def constant(value):
        tensors.append(numpy_helper.from_array(value.astype(np.float32), f"w{len(tensors)}"))
        return tensors[-1].name

    def weights(*shape, fan_in):
        return constant(rng.normal(0, (2 / fan_in) ** 0.5, shape))

    def operation(kind, *inputs, **attributes):
        operations.append(helper.make_node(kind, inputs, [f"x{len(operations)}"], **attributes))
        return operations[-1].output[0]

    def of_window(window):
        (top, bottom), (left, right) = window.padding
        return {"kernel_shape": window.size, "strides": window.strides, "pads": [top, left, bottom, right]}

    def conv(x, kernel, window, groups=1):
        kh, kw, channels, out = kernel.shape
        w, b = weights(out, channels, kh, kw, fan_in=kh * kw * channels), constant(np.zeros(out))
        return operation("Conv", x, w, b, group=groups, **of_window(window))

    for node in network.nodes:
        inputs = [names[j] for j in node.inputs]
        match node:
            case nodes.StemNode():
                name = conv("images", node.weights, node.window)
            case nodes.BinaryConvNode():
                name = conv(*inputs, node.signs, node.window, node.groups)
            case nodes.ThresholdsNode() if isinstance(network.nodes[node.inputs[0]], nodes.ReluNode):
                name = inputs[0]  # a quantizer alone
            case nodes.ThresholdsNode() | nodes.ReluNode():
                name = operation("Relu", *inputs)
            case nodes.RequantizeNode():
                name = inputs[0]  # batch norm, part of the convolution
            case nodes.AddNode():
                name = operation("Add", *inputs)
            case nodes.MaxPoolNode():
                name = operation("MaxPool", *inputs, **of_window(node.window))
            case nodes.MeanPoolNode() if node.window:
                name = operation("AveragePool", *inputs, **of_window(node.window))
            case nodes.MeanPoolNode():
                name = operation("GlobalAveragePool", *inputs)
            case nodes.ConcatNode():
                name = operation("Concat", *inputs, axis=1)
            case nodes.ClassifierNode():
                channels, out = node.weights.shape
                flat = operation("Flatten", *inputs)
                kernel = weights(channels, out, fan_in=channels)
                name = operation("Gemm", flat, kernel, constant(np.zeros(out)))
        names.append(name)
    shape = ["N", network.channels, network.height, network.width]
    graph = helper.make_graph(
        operations,
        "float_network",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(names[-1], TensorProto.FLOAT, ["N", network.classes])],
        tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model, full_check=True)
    return model


def write_networks(network, folder):
    """Writes all the files that the engines load."""
    import onnx
    from onnxruntime import quantization

    from qresnet_jax.ship.packed.file import save_packed

    save_packed(network, folder / "network.safetensors")
    onnx.save(onnx_float_network(network), folder / ONNX_FILES[FLOAT32])

    class Calibration(quantization.CalibrationDataReader):
        batches = iter([{"images": as_float(pixels(network, 32))}])

        def get_next(self):
            return next(self.batches, None)

    prepared = folder / "prepared.onnx"
    quantization.quant_pre_process(folder / ONNX_FILES[FLOAT32], prepared, skip_symbolic_shape=True)
    quantization.quantize_static(
        prepared,
        folder / ONNX_FILES[INT8],
        Calibration(),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )


def pixels(network, n):
    """Returns n random images of the network's size, uint8 `[n, H, W, C]`."""
    shape = (n, network.height, network.width, network.channels)
    return np.random.default_rng(1).integers(0, 256, shape, np.uint8)


def as_float(images):
    """Normalises images, uint8 `[N, H, W, C]`, and returns them as float32 `[N, C, H, W]`."""
    return np.ascontiguousarray(normalize(images, np.float32(127.5)).transpose(0, 3, 1, 2))
