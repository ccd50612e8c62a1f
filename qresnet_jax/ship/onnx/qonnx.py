"""Writes a trained network as a QONNX file, which is ONNX with quantizers for FPGA tools (Pappalardo et al. 2022).

The graph is that of `IntegerNetwork`, except that it has no thresholds but what was trained: scale, batch
norm, ReLU and quantizer. All tensors are float32, in the layout NCHW. These are quantized:

    pixels    2 * pixel - 2 * mean              Quant, signed, 10 bits
    levels    activation / step                 Quant, unsigned
    kernels   -1 or +1                          BipolarQuant, of the trained kernel
    weights   integers of stem and classifier   Quant, signed
    stream    in steps of 2**-fraction_bits     Quant, signed, 16 bits

All quantizers but those of the stream have the scale 1. So convolutions sum integers, exactly, and tools see
the types of their operands; the sums are then multiplied by the scales. A batch norm onto the stream has the
rounded values that ship, with half a step in its bias, because the quantizer behind it rounds down.
"""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from flax import nnx

from qresnet_jax import nn, pixels
from qresnet_jax.errors import ExportError
from qresnet_jax.nn.recording import Step
from qresnet_jax.quantize import weights
from qresnet_jax.ship import nodes, trained
from qresnet_jax.ship.fold import Folded, fold_traced
from qresnet_jax.ship.nodes import Node
from qresnet_jax.ship.onnx import graph as onnx_graph

if TYPE_CHECKING:
    import onnx

DOMAIN = "qonnx.custom_op.general"
_DESCRIPTION = (
    "An image classifier in QONNX. image: uint8 pixels as they are, [N, height, width, channel]; the network itself "
    "subtracts the mean. logits: float32, those of training."
)


def write_qonnx(
    model: nnx.Module,
    path: str | os.PathLike[str],
    *,
    image_shape: tuple[int, int],
    mean: npt.ArrayLike = 127.5,
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a trained network as a QONNX file. A file that is already at `path` is replaced at once or not at all.

    The file has the input `image`, uint8 `[1, H, W, C]`, and the output `logits`, float32 `[1, classes]`.
    QONNX tools need a fixed number of images, but they can change it. The metadata is that of
    `qresnet_jax.ship.onnx.writer.write_onnx`.

    Args:
      model: a network with binary weights and quantized activations, in any mode. It is not changed.
      path: path of the file.
      image_shape: `(height, width)` of the images.
      mean: the pixel means that training subtracted, multiples of 1/2 from 0 to 255, one number or one per
        channel.
      class_names: names of the classes in the order of the logits, or None.

    Raises:
      ExportError: if the activations have no QONNX form, if `fold` refuses the network, or if the package
        onnx is not installed.
      UserError: if the file cannot be written.
      ValueError: if a mean, the number of names or the shape is not possible.
    """
    onnx_graph.save(qonnx_model(model, image_shape=image_shape, mean=mean, class_names=class_names), path)


def qonnx_model(
    model: nnx.Module,
    *,
    image_shape: tuple[int, int],
    mean: npt.ArrayLike = 127.5,
    class_names: Sequence[str] | None = None,
) -> "onnx.ModelProto":
    """Returns the model that `write_qonnx` writes, with the shapes of all its tensors.

    The arguments and errors are those of `write_qonnx`.
    """
    onnx_graph.import_onnx()
    folded = fold_traced(model, mean=mean, class_names=class_names, image_shape=image_shape)
    _check_quantizers(folded.steps)
    network = folded.network
    writer = _Writer(folded, image_shape)
    results: list[str] = []
    for i, node in enumerate(network.nodes):
        results.append(writer.add(i, node, *([results[j] for j in node.inputs] or ["image"])))
    metadata = onnx_graph.metadata(network, 1, _DESCRIPTION)
    return _with_shapes(writer.graph.model(np.float32, (1, network.classes), metadata, {DOMAIN: 1}))


def _check_quantizers(steps: Sequence[Step]) -> None:
    for step in steps:
        act = step.operation
        if isinstance(act, nn.Quantizer) and not _is_rounding(act):
            raise ExportError(
                f"{step.path} has {type(act).__name__} activations, which have no QONNX form: its Quant rounds to evenly "
                "spaced levels. Export to another format, or train with config.model.activation=pact"
            )


def _is_rounding(act: nn.Quantizer) -> bool:
    """Returns whether a `Quant` computes the quantizer: evenly spaced levels, each for what is nearest to it."""
    return act.is_uniform and type(act).level_index is nn.Quantizer.level_index


def _with_shapes(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Adds the shapes of all tensors. ONNX does not know the quantizers, so it gets identities in place of them."""
    module = onnx_graph.import_onnx()
    known = module.ModelProto()
    known.CopyFrom(model)
    for node in known.graph.node:
        if node.domain == DOMAIN:
            node.CopyFrom(module.helper.make_node("Identity", node.input[:1], node.output))
    model.graph.value_info.extend(onnx_graph.with_shapes(known).graph.value_info)
    return model


def _trained_quantizer(
    steps: Sequence[Step], i: int
) -> tuple[npt.ArrayLike, nn.BatchNorm | None, nn.Quantizer]:
    """Returns `(factor, batch norm or None, quantizer)` of step i, which is a quantizer.

    The factor, scalar or `[C]`, is what one unit of the integers that it reads is worth; it is 1 for the stream.
    """
    norm, before = None, steps[i].inputs[0]
    while not isinstance(steps[before].operation, nn.BinaryConv | nn.StemConv):
        if isinstance(steps[before].result, nn.Stream):
            return 1, norm, steps[i].operation
        if isinstance(steps[before].operation, nn.BatchNorm):
            norm = steps[before].operation
        before = steps[before].inputs[0]
    conv = steps[before].operation
    if isinstance(conv, nn.StemConv):
        return trained.stem_weights(conv)[1], norm, steps[i].operation
    act = steps[steps[before].inputs[0]].operation
    return weights.binary_scale(conv.kernel[...], conv.scale) * act.step, norm, steps[i].operation


class _Writer:
    """A writer that adds one node after the other to its graph. Its methods return the name of the result."""

    def __init__(self, folded: Folded, image_size: tuple[int, int]) -> None:
        self.network, self.steps, self.image_size = folded.network, folded.steps, image_size
        network = folded.network
        self.values = nodes.value_types(network.nodes)
        self.step_of = {
            node: i for i, node in enumerate(folded.made) if node is not None
        }  # what each was folded from
        self.step = 2.0**-network.fraction_bits  # of the stream
        self.graph = onnx_graph.Graph((1, *image_size, network.channels))

    def add(self, i: int, node: Node, x: str, *others: str) -> str:
        layer = _TrainedOperators(self.graph, onnx_graph.layer_name(self.network, i))
        match node:
            case nodes.StemNode():
                return self.stem(layer, node, x)
            case nodes.BinaryConvNode():
                conv = self.steps[self.step_of[i]].operation
                kernel = layer.constant("kernel", np.asarray(conv.kernel[...]).transpose(3, 2, 0, 1))
                return layer.conv(x, layer.bipolar(kernel), node.signs.shape[:2], node.stride)
            case nodes.ThresholdsNode():
                return layer.activation(x, *_trained_quantizer(self.steps, self.step_of[i]))
            case nodes.RequantizeNode():
                return self.requantize(layer, node, x)
            case nodes.AddNode():
                return layer.stream(layer("Add", x, *others), self.step)
            case nodes.ReluNode():
                return layer("Relu", x)
            case nodes.MaxPoolNode():
                return layer.max_pool(x)
            case nodes.MeanPoolNode():
                return self.mean_pool(layer, node, x)
            case nodes.ClassifierNode():
                return self.classifier(layer, node, x)
        raise TypeError(f"no such node: {node}")

    def stem(self, layer: "_TrainedOperators", node: nodes.StemNode, image: str) -> str:
        # QONNX tools know the type and the cost of this operator, but not those of a Cast.
        doubled = layer("DequantizeLinear", image, layer.constant("two", np.float32(2)))
        transposed = layer("Transpose", doubled, perm=[0, 3, 1, 2])
        mean = layer.per_channel("double_mean", node.double_mean.astype(np.float32))
        bits = 1 + pixels.LARGEST.bit_length()  # the differences are -LARGEST .. LARGEST
        centered = layer.quant(layer("Sub", transposed, mean), bits=bits, signed=True)
        weights = layer.weights(node.weights.transpose(3, 2, 0, 1))
        return layer.conv(centered, weights, node.weights.shape[:2], node.stride)

    def requantize(self, layer: "_TrainedOperators", node: nodes.RequantizeNode, x: str) -> str:
        unit = 2.0 ** -(self.network.fraction_bits + node.shift.astype(np.float64))
        of_x = 1 if self.values[node.inputs[0]].kind == "acc" else self.step
        scaled = layer.affine(x, node.multiplier * (unit / of_x), node.offset * unit)
        return layer.stream(scaled, self.step)

    def mean_pool(self, layer: "_TrainedOperators", node: nodes.MeanPoolNode, x: str) -> str:
        reduction = self.values[node.inputs[0]].reduction
        kernel_shape = [-(-size // reduction) for size in self.image_size]
        mean = layer("AveragePool", x, kernel_shape=kernel_shape)
        half = layer.constant("half", np.float32(self.step / 2))
        return layer("Flatten", layer.stream(layer("Add", mean, half), self.step))

    def classifier(self, layer: "_TrainedOperators", node: nodes.ClassifierNode, x: str) -> str:
        scale = self.network.logit_scale
        sums = layer("MatMul", x, layer.weights(node.weights))
        scaled = layer("Mul", sums, layer.constant("scale", np.float32(scale / self.step)))
        return layer("Add", scaled, layer.constant("bias", np.float32(node.bias * scale)), output="logits")


class _TrainedOperators(onnx_graph.LayerOperators):
    """Adds quantizers, and the operators around them."""

    def quant(
        self,
        x: str,
        *,
        bits: int,
        signed: bool,
        scale: float = 1,
        narrow: bool = False,
        rounding: str = "ROUND",
    ) -> str:
        parameters = {"scale": scale, "zero_point": 0, "bits": bits}
        constants = [self.constant(name, np.float32(value)) for name, value in parameters.items()]
        attributes = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": rounding}
        return self("Quant", x, *constants, domain=DOMAIN, **attributes)

    def bipolar(self, x: str) -> str:
        return self("BipolarQuant", x, self.constant("scale", np.float32(1)), domain=DOMAIN)

    def stream(self, x: str, step: float) -> str:
        return self.quant(x, bits=16, signed=True, scale=step, rounding="FLOOR")

    def weights(self, integers: np.ndarray) -> str:
        bits = int(np.abs(integers).max()).bit_length() + 1
        x = self.constant("weights", integers.astype(np.float32))
        return self.quant(x, bits=max(bits, 2), signed=True, narrow=True)

    def activation(self, x: str, factor: npt.ArrayLike, norm: nn.BatchNorm | None, act: nn.Quantizer) -> str:
        x = self.scaled(x, "factor", factor)
        if norm is not None:
            values = {"gamma": norm.scale, "beta": norm.bias, "mean": norm.mean, "variance": norm.var}
            x = self("Relu", self.batch_norm(x, {k: v[...] for k, v in values.items()}, norm.epsilon))
        x = self.scaled(x, "steps", act.max_level / act.clipping_level)
        return self.quant(x, bits=act.bits, signed=False)

    def scaled(self, x: str, name: str, factor: npt.ArrayLike) -> str:
        values = np.asarray(factor, np.float32)
        return x if np.all(values == 1) else self("Mul", x, self.per_channel(name, values))

    def affine(self, x: str, multiplier: np.ndarray, offset: np.ndarray) -> str:
        zeros, ones = np.zeros_like(offset), np.ones_like(offset)
        return self.batch_norm(x, {"gamma": multiplier, "beta": offset, "mean": zeros, "variance": ones}, 0.0)

    def batch_norm(self, x: str, values: Mapping[str, npt.ArrayLike], epsilon: float) -> str:
        constants = [self.constant(name, np.asarray(value, np.float32)) for name, value in values.items()]
        return self("BatchNormalization", x, *constants, epsilon=epsilon)
