"""Folds a trained network into the integers that ship.

Between two convolutions lie a scale s, a step alpha / n, a batch norm, a ReLU and a quantizer. They are
folded in two ways:

- If the result goes to the residual stream, they become `(acc * M + C) >> k`, see `qresnet_jax.ship.requantize`.
- If the result goes to a quantizer, they become thresholds on the integer acc, see `qresnet_jax.ship.thresholds`.

Everything is computed on the host, in float64. So a checkpoint gives the same integers on every platform, and what
XLA makes of products and sums has no influence on them.
"""

import dataclasses
from collections.abc import Sequence
from typing import cast

import jax
import numpy as np
import numpy.typing as npt
from flax import nnx

from qresnet_jax import nn, pixels
from qresnet_jax.errors import ExportError
from qresnet_jax.models.resnet import Block, PreactBlock, ResNet
from qresnet_jax.ship import nodes, trained
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.requantize import requantizer
from qresnet_jax.ship.thresholds import fold_quantizer


def fold(
    model: ResNet,
    *,
    mean: npt.ArrayLike = 127.5,
    class_names: Sequence[str] | None = None,
    image_shape: tuple[int, int] | None = None,
) -> IntegerNetwork:
    """Returns the integer network of a trained model. Validation and test run this network.

    Args:
      model: a network with binary weights and quantized activations, in any mode. It is not changed.
      mean: the pixel means that training subtracted, multiples of 1/2 from 0 to 255, one number or one per
        channel. A checkpoint's description has them as `mean`.
      class_names: names of the classes in the order of the logits, or None.
      image_shape: `(height, width)` of the images if the network shall accept only this size, or None.

    Raises:
      ExportError: if the network has float weights or activations, if its sums reach 2**24, or if a parameter
        is not finite.
      TypeError: if `model` is not from `create_model`.
      ValueError: if a mean, the number of names or the shape is not possible.
    """
    if not isinstance(model, ResNet):
        raise TypeError(f"fold takes a network from create_model, got {type(model).__name__}")
    _check_foldable(model)
    graphdef, state = nnx.split(model)
    state = jax.device_get(state)
    _check_finite(state)
    model = nnx.merge(graphdef, state)  # a copy on the host, so that nothing below computes on a device
    fraction_bits = model.fraction_bits
    assert fraction_bits is not None  # only a float network has a float stream
    folding = _Folding(fraction_bits)
    stream = folding.stem(model, mean)
    for name, block in blocks(model):
        stream = folding.block(name, block, stream)
    if model.final_norm is not None:
        unit, bound = 2.0**-fraction_bits, -nodes.STREAM_MIN
        stream = folding.requantize(unit, model.final_norm, bound, stream)
        stream = folding.add(nodes.ReluNode(inputs=(stream,)))
    logit_scale = folding.classifier(model.classifier, folding.add(nodes.MeanPoolNode(inputs=(stream,))))
    height, width = (None, None) if image_shape is None else image_shape
    return IntegerNetwork(
        tuple(folding.nodes),
        fraction_bits=fraction_bits,
        logit_scale=logit_scale,
        class_names=None if class_names is None else tuple(class_names),
        height=height,
        width=width,
    )


def blocks(model: ResNet) -> list[tuple[str, Block]]:
    """Returns `(name, block)` of all residual blocks. The node that completes a block has the same name."""
    return [
        (f"stages.{i}.{j}", block) for i, stage in enumerate(model.stages) for j, block in enumerate(stage)
    ]


def why_float(model: ResNet) -> str | None:
    """Says why a network has no integer form, and how to train one that has; returns None if it has one."""
    for name, block in blocks(model):
        if any(isinstance(conv, nn.FloatConv) for conv in block.convs):
            return "a network with float weights has no integer form: train with config.model.weight_bits=1"
        if any(isinstance(act, nn.FloatActivation) for act in block.acts):
            return (
                f"{name} has float activations, which have no integer form: train with a quantizer as "
                "config.model.activation and with config.model.act_bits of 1 to 8"
            )
    return None


def _check_foldable(model: ResNet) -> None:
    if reason := why_float(model):
        raise ExportError(reason)
    sums = {"stem": model.stem.acc_max() if model.stem.weight_bits else 0}
    for name, block in blocks(model):
        sums[name] = max(c.acc_max(a.max_level) for c, a in zip(*binary_layers(block), strict=True))
    for name, largest in sums.items():
        if largest >= nodes.ACC_LIMIT:
            raise ExportError(
                f"{name} has sums of up to {largest:,}, but only sums below 2**24 are exact: train with fewer "
                "config.model.act_bits (for the stem, stem_weight_bits), or a smaller config.model.width"
            )


def _check_finite(state: nnx.State) -> None:
    for path, value in jax.tree.leaves_with_path(state):
        if not np.all(np.isfinite(value)):
            raise ExportError(
                f"{jax.tree_util.keystr(path)} is not finite, so this network cannot be shipped: export an earlier "
                "checkpoint, or train again"
            )


def binary_layers(block: Block) -> tuple[list[nn.BinaryConv], list[nn.Quantizer]]:
    """Returns the convolutions and quantizers of a block that has an integer form, so that none of them is float."""
    return cast(list[nn.BinaryConv], list(block.convs)), cast(list[nn.Quantizer], list(block.acts))


class _Folding:
    """The list of nodes under construction. Every method adds nodes and returns the position of the last one."""

    def __init__(self, fraction_bits: int) -> None:
        self.fraction_bits = fraction_bits
        self.nodes: list[nodes.Node] = []

    def add(self, node: nodes.Node) -> int:
        self.nodes.append(node)
        return len(self.nodes) - 1

    def stem(self, model: ResNet, mean: npt.ArrayLike) -> int:
        weights, unit = trained.stem_weights(model.stem)
        acc = self.add(
            nodes.StemNode(
                weights=weights,
                double_mean=pixels.double_mean(mean, model.stem.in_features),
                stride=model.stem.strides[0],
            )
        )
        stream = self.requantize(unit, model.stem_norm, model.stem.acc_max(), acc)
        if model.stem_norm is not None:
            stream = self.add(nodes.ReluNode(inputs=(stream,)))
        if model.imagenet_stem:
            stream = self.add(nodes.MaxPoolNode(inputs=(stream,)))
        self.nodes[-1] = dataclasses.replace(self.nodes[-1], name="stem")
        return stream

    def block(self, name: str, block: Block, stream: int) -> int:
        preact = isinstance(block, PreactBlock)
        # In the pre-activation form, batch norm i stands in front of convolution i, else behind it.
        norms: list[nn.BatchNorm | None] = list(block.norms) if preact else [None, *block.norms]
        convs, acts = binary_layers(block)
        first = x = self.quantize(norms[0], acts[0], stream)
        for i, conv in enumerate(convs):
            acc = self.conv(f"{name}.convs.{i}", conv, x)
            if i + 1 < len(convs):
                x = self.quantize(norms[i + 1], acts[i + 1], acc, conv, acts[i])
        y = self.onto_stream(convs[-1], None if preact else norms[-1], acts[-1], acc)
        if block.project is not None:
            project = cast(nn.BinaryConv, block.project)
            acc = self.conv(f"{name}.project", project, first)
            stream = self.onto_stream(project, block.project_norm, acts[0], acc)
        if preact:
            return self.add(nodes.AddNode(name=name, inputs=(y, stream)))
        return self.add(nodes.ReluNode(name=name, inputs=(self.add(nodes.AddNode(inputs=(y, stream))),)))

    def conv(self, name: str, conv: nn.BinaryConv, levels: int) -> int:
        return self.add(
            nodes.BinaryConvNode(
                name=name, inputs=(levels,), signs=trained.signs(conv), stride=conv.strides[0]
            )
        )

    def quantize(
        self,
        norm: nn.BatchNorm | None,
        act: nn.Quantizer,
        x: int,
        conv: nn.BinaryConv | None = None,
        act_before: nn.Quantizer | None = None,
    ) -> int:
        """Adds the thresholds on node x, which is the stream, or `conv` of the levels of `act_before`."""
        unit: float | np.ndarray
        if conv is None or act_before is None:
            unit, bound = 2.0**-self.fraction_bits, -nodes.STREAM_MIN
        else:
            unit, bound = trained.unit_of_levels(conv, act_before), conv.acc_max(act_before.max_level)
        return self.add(dataclasses.replace(fold_quantizer(norm, act, unit, bound), inputs=(x,)))

    def onto_stream(self, conv: nn.BinaryConv, norm: nn.BatchNorm | None, act: nn.Quantizer, acc: int) -> int:
        """Adds the batch norm on node acc, which is `conv` of the levels of `act`."""
        unit = np.broadcast_to(trained.unit_of_levels(conv, act), (conv.out_features,))
        return self.requantize(unit, norm, conv.acc_max(act.max_level), acc)

    def requantize(self, unit: float | np.ndarray, norm: nn.BatchNorm | None, bound: int, x: int) -> int:
        """Adds the batch norm on node x, of which one unit is worth `unit`, and which is `bound` at most."""
        gamma, beta = trained.affine(norm)
        multiplier = gamma * unit
        offset = np.broadcast_to(beta, multiplier.shape)
        node = requantizer(multiplier, offset, bound, self.fraction_bits)
        return self.add(dataclasses.replace(node, inputs=(x,)))

    def classifier(self, classifier: nn.Classifier, pooled: int) -> float:
        """Adds the last node; returns the logit scale."""
        weights, bias, unit = trained.classifier_weights(classifier)
        self.add(nodes.ClassifierNode(name="classifier", inputs=(pooled,), weights=weights, bias=bias))
        return unit
