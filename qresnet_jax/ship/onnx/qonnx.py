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
from qresnet_jax.ship import nodes, trained
from qresnet_jax.ship.fold import Folded, fold_traced
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.nodes import Node
from qresnet_jax.ship.onnx import graph as onnx_graph
from qresnet_jax.ship.owners import makers, quantizer_behind

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


def _activation(steps: Sequence[Step], i: int) -> tuple[npt.ArrayLike, list[Step]]:
    """Returns what step i, a quantizer, reads: what a unit of integers is worth, and the steps from them to it."""
    between: list[Step] = []
    before = steps[i].inputs[0]
    while (unit := _unit(steps, before)) is None:
        between.insert(0, steps[before])
        before = steps[before].inputs[0]
    return unit, between


def _unit(steps: Sequence[Step], i: int) -> npt.ArrayLike | None:
    """Returns what one unit of the result of step i is worth in its graph, scalar or `[C]`; None if it makes no integers.

    The graph has sums of layers, and levels, as integers, but the stream as it is.
    """
    step = steps[i]
    if isinstance(step.operation, nn.StemConv):
        return trained.stem_weights(step.operation)[1]
    if isinstance(step.operation, nn.BinaryConv):
        quantizer = quantizer_behind(steps, step.inputs[0])
        assert quantizer is not None  # as `fold` has checked
        return trained.unit_of_levels(step.operation, quantizer)
    if quantizer := quantizer_behind(steps, i):
        return trained.step_of(quantizer)
    return 1 if isinstance(step.result, nn.Stream) else None


class _Writer:
    """A writer that adds one node after the other to its graph. Its methods return the name of the result."""

    def __init__(self, folded: Folded, image_size: tuple[int, int]) -> None:
        self.network, self.steps, self.image_size = folded.network, folded.steps, image_size
        self.step_of = makers(folded)
        self.step = 2.0**-self.network.fraction_bits  # of the stream
        self.graph = onnx_graph.Graph((1, *image_size, self.network.channels))

    def add(self, i: int, node: Node, x: str, *others: str) -> str:
        layer = _TrainedOperators(self.graph, onnx_graph.layer_name(self.network, i))
        match node:
            case nodes.StemNode():
                return self.stem(layer, node, x)
            case nodes.BinaryConvNode():
                conv = self.steps[self.step_of[i]].operation
                if not isinstance(conv, nn.BinaryConv):
                    return x  # levels that something reads as sums
                # A dense layer's own kernel is 1x1.
                kernel = np.asarray(conv.kernel[...]).reshape(node.signs.shape)
                bipolar = layer.bipolar(layer.constant("kernel", kernel.transpose(3, 2, 0, 1)))
                return layer.conv(x, bipolar, node.window, node.groups)
            case nodes.ThresholdsNode():
                step = self.step_of[i]
                return layer.activation(x, *_activation(self.steps, step), self.steps[step].operation)
            case nodes.RequantizeNode():
                return self.requantize(layer, node, x)
            case nodes.AddNode():
                return layer.stream(layer("Add", x, *others), self.step)
            case nodes.ReluNode():
                return layer("Relu", x)
            case nodes.ConcatNode():
                return layer("Concat", x, *others, axis=1)
            case nodes.MaxPoolNode():
                return layer.max_pool(x, node.window)
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
        return layer.conv(centered, weights, node.window)

    def requantize(self, layer: "_TrainedOperators", node: nodes.RequantizeNode, x: str) -> str:
        unit = 2.0 ** -(self.network.fraction_bits + node.shift.astype(np.float64))
        of_x = 1 if self.network.values[node.inputs[0]].kind == "acc" else self.step
        scaled = layer.affine(x, node.multiplier * (unit / of_x), node.offset * unit)
        return layer.stream(scaled, self.step)

    def mean_pool(self, layer: "_TrainedOperators", node: nodes.MeanPoolNode, x: str) -> str:
        (height, width), known = self.image_size, self.network.values[node.inputs[0]]
        window = node.window or Window((known.height.at(height), known.width.at(width)))
        mean = layer("AveragePool", x, **onnx_graph.window_attributes(window))
        half = layer.constant("half", np.float32(self.step / 2))
        return layer.stream(layer("Add", mean, half), self.step)

    def classifier(self, layer: "_TrainedOperators", node: nodes.ClassifierNode, x: str) -> str:
        scale = self.network.logit_scale
        weights = onnx_graph.channels_first(node.weights, self.network.values[node.inputs[0]])
        sums = layer("MatMul", layer("Flatten", x), layer.weights(weights))
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

    def activation(self, x: str, unit: npt.ArrayLike, between: Sequence[Step], act: nn.Quantizer) -> str:
        """Quantizes what `between` makes of integers x."""
        x = self.scaled(x, "factor", unit)
        for step in between:
            x = self.trained(x, step)
        x = self.scaled(x, "steps", act.max_level / act.clipping_level)
        return self.quant(x, bits=act.bits, signed=False)

    def trained(self, x: str, step: Step) -> str:
        """Adds a step of the trained network between integers and a quantizer."""
        match step.operation:
            case nn.BatchNorm() as norm:
                values = {"gamma": norm.scale, "beta": norm.bias, "mean": norm.mean, "variance": norm.var}
                return self.batch_norm(x, {k: v[...] for k, v in values.items()}, norm.epsilon)
            case nn.Shift() as shift:
                return self("Add", x, self.per_channel("shift", np.asarray(shift.shift[...])))
            case nn.relu:
                return self("Relu", x)
            case nn.Dropout() | nn.flatten:  # a dense layer behind it reads the image itself
                return x
        raise ExportError(
            f"{step.path or step.operation.__name__} stands in front of a quantizer, but has no QONNX form there: export to "
            "another format"
        )

    def scaled(self, x: str, name: str, factor: npt.ArrayLike) -> str:
        values = np.asarray(factor, np.float32)
        return x if np.all(values == 1) else self("Mul", x, self.per_channel(name, values))

    def affine(self, x: str, multiplier: np.ndarray, offset: np.ndarray) -> str:
        zeros, ones = np.zeros_like(offset), np.ones_like(offset)
        return self.batch_norm(x, {"gamma": multiplier, "beta": offset, "mean": zeros, "variance": ones}, 0.0)

    def batch_norm(self, x: str, values: Mapping[str, npt.ArrayLike], epsilon: float) -> str:
        constants = [self.constant(name, np.asarray(value, np.float32)) for name, value in values.items()]
        return self("BatchNormalization", x, *constants, epsilon=epsilon)
