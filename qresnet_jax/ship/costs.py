"""Counts what each layer of a network costs: parameters, bytes, multiplications, bit operations.

A row of the table is a convolution or the classifier, under its name in the metrics. A row also counts

- the batch norm that folds into its thresholds (in front of it in the pre-activation form, else behind it),
- the clipping level of the quantizer that makes its input. A projection reads the quantizer of the block's
  first convolution, so the row of that convolution counts the clipping level.

A pre-activation network ends in a batch norm that belongs to no convolution and has a row of its own,
`final_norm`. Running statistics do not count as parameters. A multiply-accumulate (MAC) also counts at the
image's border, where it multiplies by padding. Bit operations (BOPs) are MACs times weight bits times
activation bits.

For a network with an integer form, the bits are those that ship. The stem has `stem_weight_bits` for weights
and 8 for pixels. The classifier has the bits of its largest integer weight (at most 11, stored in 16) and 16
for means. The packed bytes are those of a layer's tensors in the packed file; the rest of the file is the row
`file header`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.nn.recording import Step
from qresnet_jax.ship import nodes
from qresnet_jax.ship.fold import Folded, fold_traced, steps_of, why_float
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.owners import (
    has_kernel,
    layers_of_nodes,
    owner_of_layer,
    owners_of_nodes,
    quantizer_behind,
    thresholds_behind,
)
from qresnet_jax.ship.packed.arrays import NodeWriter
from qresnet_jax.ship.packed.file import packed_bytes
from qresnet_jax.system.tables import aligned

FLOAT_BITS = 32
PIXEL_BITS = 8
STREAM_BITS = 16
HEADER = "file header"
FINAL_NORM = "final_norm"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerCost:
    """A row of the table. Bits are None if nothing is multiplied; `packed_bytes` is None if nothing is packed."""

    name: str
    shape: tuple[int, ...] = ()  # shape of the kernel, HWIO, or [in, classes]
    weight_bits: int | None = None
    act_bits: int | None = None  # bits of the layer's input
    parameters: int = 0
    clipping_levels: int = 0  # how many of the parameters are clipping levels
    packed_bytes: int | None = None
    macs: int = 0  # for one image

    @property
    def float_bytes(self) -> int:
        """Returns the bytes of the parameters as float32."""
        return 4 * self.parameters

    @property
    def bops(self) -> int:
        """Returns the bit operations for one image."""
        return self.macs * (self.weight_bits or 0) * (self.act_bits or 0)

    @property
    def is_binary(self) -> bool:
        """Returns whether the layer's weights are binary."""
        return self.weight_bits == 1


class Totals(NamedTuple):
    """The sums over all layers of a network."""

    parameters: int
    clipping_levels: int
    binary_parameters: int
    float_bytes: int
    packed_bytes: int | None  # of the whole file; None for a float network
    macs: int
    binary_macs: int
    bops: int

    @property
    def compression(self) -> float | None:
        """Returns how many times smaller the packed file is than the parameters as float32; None for a float network."""
        return None if self.packed_bytes is None else self.float_bytes / self.packed_bytes

    @property
    def binary_mac_share(self) -> float:
        """Returns the fraction of the MACs that have binary weights, 0 to 1."""
        return self.binary_macs / self.macs


def layer_table(
    model: nnx.Module, image_shape: tuple[int, int, int], network: IntegerNetwork | Folded | None = None
) -> list[LayerCost]:
    """Returns the costs of a trained network's layers, in the order in which they are computed.

    Args:
      model: a network of the layers in `qresnet_jax.nn`, in any mode.
      image_shape: `(height, width, channels)`.
      network: the integer form of `model`, whose mean and class names are in the file's header; None for a header
        without class names. If it comes from `fold_traced`, `model` is not folded again.

    Raises:
      ValueError: if the images do not have as many channels as the network.
      ExportError: if `model` should have an integer form, but `fold` refuses it.
    """
    known = network.steps if isinstance(network, Folded) else None
    steps = steps_of(model, image_shape[:2], known)
    stem = next(step.operation for step in steps if isinstance(step.operation, nn.StemConv))
    inputs = math.prod(image_shape) if isinstance(stem, nn.StemDense) else image_shape[-1]
    if stem.in_features != inputs:
        raise ValueError(
            f"image_shape={image_shape}: the first layer has {stem.in_features} inputs, not {inputs}"
        )
    rows = _model_rows(steps)
    header = []
    if why_float(model) is None:
        if isinstance(network, Folded):
            folded, network = network, network.network
        else:
            folded = fold_traced(
                model, mean=127.5, class_names=None, image_shape=image_shape[:2], known=steps
            )
        rows = _as_shipped(rows, folded)
        header = [_header(network or folded.network)]
    return [row for row in (*rows.values(), *header) if row.parameters or row.macs or row.packed_bytes]


def network_table(network: IntegerNetwork, image_size: tuple[int, int] | None = None) -> list[LayerCost]:
    """Returns the costs of an integer network's layers. Only weights count as parameters: the rest became thresholds.

    Args:
      network: a network from `fold` or `read_packed`.
      image_size: `(height, width)` of the images that operations are counted for. It may be left out if the network
        takes images of one size only.

    Raises:
      ValueError: if the network takes images of any size, and no `image_size` is given; or if its layers do not fit
        images of this size.
    """
    height, width = (network.height, network.width) if image_size is None else image_size
    if height is None or width is None:
        raise ValueError("this network takes images of any size: give an image_size")
    values = dataclasses.replace(network, height=height, width=width).values
    packed = [0] * len(values)
    for node, owner in zip(network.nodes, owners_of_nodes(network), strict=True):
        packed[owner] += _tensor_bytes(node)
    rows = []
    for i in np.flatnonzero(packed).tolist():
        row = _network_row(i, network, values[i].height.at(height) * values[i].width.at(width))
        rows.append(dataclasses.replace(row, packed_bytes=packed[i]))
    return [*rows, _header(network)]


def totals(layers: Sequence[LayerCost]) -> Totals:
    """Returns the sums over all layers."""
    binary = [layer for layer in layers if layer.is_binary]
    packed = [layer.packed_bytes for layer in layers if layer.packed_bytes is not None]
    return Totals(
        parameters=sum(layer.parameters for layer in layers),
        clipping_levels=sum(layer.clipping_levels for layer in layers),
        binary_parameters=sum(math.prod(layer.shape) for layer in binary),
        float_bytes=sum(layer.float_bytes for layer in layers),
        packed_bytes=sum(packed) if packed else None,
        macs=sum(layer.macs for layer in layers),
        binary_macs=sum(layer.macs for layer in binary),
        bops=sum(layer.bops for layer in layers),
    )


# A trained network's steps.


def _model_rows(steps: Sequence[Step]) -> dict[int, LayerCost]:
    """Returns the rows of all layers that have any, by the positions of their steps."""
    owned: dict[int, list[nnx.Module]] = {}
    counted: set[int] = set()  # a layer that is called again has no further parameters
    for i, step in enumerate(steps):
        if isinstance(step.operation, nnx.Module):
            modules = owned.setdefault(owner_of_layer(steps, i), [])
            if id(step.operation) not in counted:
                counted.add(id(step.operation))
                modules.append(step.operation)
    return {i: _model_row(i, steps, modules) for i, modules in sorted(owned.items())}


def _model_row(i: int, steps: Sequence[Step], owned: Sequence[nnx.Module]) -> LayerCost:
    layer = steps[i].operation
    row = LayerCost(
        name=steps[i].path,
        parameters=sum(_parameters(module, nnx.Param) for module in owned),
        clipping_levels=sum(_parameters(module, nn.ClippingLevel) for module in owned),
    )
    if not has_kernel(layer):
        return row
    kernel, quantizer = layer.kernel[...], quantizer_behind(steps, steps[i].inputs[0])
    return dataclasses.replace(
        row,
        shape=kernel.shape,
        weight_bits=1 if isinstance(layer.kernel, nn.BinaryKernel) else FLOAT_BITS,
        act_bits=FLOAT_BITS if quantizer is None else quantizer.bits,
        macs=kernel.size * math.prod(steps[i].result.shape[1:-1]),
    )


def _as_shipped(rows: Mapping[int, LayerCost], folded: Folded) -> dict[int, LayerCost]:
    """Returns the rows with packed bytes, and with the bits that stem and classifier ship with."""
    network = folded.network
    packed: dict[int, int] = {}
    for node, step in zip(network.nodes, layers_of_nodes(folded), strict=True):
        packed[step] = packed.get(step, 0) + _tensor_bytes(node)
    shipped = {}
    for i, row in rows.items():
        row = dataclasses.replace(row, packed_bytes=packed.get(i))
        match folded.steps[i].operation:
            case nn.StemConv():
                bits = integer_bits(network.stem.weights)
                row = dataclasses.replace(row, weight_bits=bits, act_bits=PIXEL_BITS)
            case nn.Classifier():
                bits = integer_bits(network.classifier.weights)
                row = dataclasses.replace(row, weight_bits=bits, act_bits=STREAM_BITS)
        shipped[i] = row
    return shipped


def _parameters(module: nnx.Module, kind: type[nnx.Param]) -> int:
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, kind)))


# An integer network's nodes.


def _tensor_bytes(node: nodes.Node) -> int:
    writer = NodeWriter()
    writer.write(1, node)  # the position matters only for the JSON
    return sum(x.nbytes for x in writer.tensors().values())


def _network_row(i: int, network: IntegerNetwork, positions: int) -> LayerCost:
    match node := network.nodes[i]:
        case nodes.StemNode():
            kernel, bits, name = node.weights, (integer_bits(node.weights), PIXEL_BITS), "stem"
        case nodes.BinaryConvNode():
            thresholds = len(thresholds_behind(network, i).levels) - 1
            kernel, bits = node.signs, (1, thresholds.bit_length())
            name = node.name or f"node {i}"
        case nodes.ClassifierNode():
            kernel, bits, name = node.weights, (integer_bits(node.weights), STREAM_BITS), "classifier"
        case nodes.RequantizeNode():  # a batch norm from stream to stream
            return LayerCost(name=node.name or FINAL_NORM)
        case _:  # thresholds that nothing reads
            return LayerCost(name=node.name or f"node {i}")
    return LayerCost(
        name=name,
        shape=kernel.shape,
        weight_bits=bits[0],
        act_bits=bits[1],
        parameters=kernel.size + (node.bias.size if isinstance(node, nodes.ClassifierNode) else 0),
        macs=kernel.size * positions,
    )


def _header(network: IntegerNetwork) -> LayerCost:
    tensor_bytes = sum(_tensor_bytes(node) for node in network.nodes)
    return LayerCost(name=HEADER, packed_bytes=len(packed_bytes(network)) - tensor_bytes)


def integer_bits(weights: np.ndarray) -> int:
    """Returns the bits of the shortest two's complement that holds all `weights`, at least 2."""
    return 1 + max(int(weights.max()), -1 - int(weights.min()), 1).bit_length()


# Rendering.

_COLUMNS = (
    "layer",
    "shape",
    "weight bits",
    "act. bits",
    "parameters",
    "float32 bytes",
    "packed bytes",
    "MACs",
    "BOPs",
)
_TEXT_COLUMNS = 2  # aligned left; numbers align right


def as_markdown(layers: Sequence[LayerCost]) -> str:
    """Renders the table in Markdown, with a row of totals and a sentence about the whole network."""
    header, *rows = _cells(layers)
    rule = ["---"] * _TEXT_COLUMNS + ["---:"] * (len(header) - _TEXT_COLUMNS)
    *rows, total = rows
    lines = [header, rule, *rows, [f"**{cell}**" if cell else "" for cell in total]]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{summary(totals(layers))}\n"


def as_text(layers: Sequence[LayerCost], counted: str = "parameters") -> str:
    """Renders the table for a console, with a row of totals and the sentence of `summary`."""
    rows = _cells(layers)
    lines = aligned(rows, _TEXT_COLUMNS)
    rule = "-" * len(lines[0])
    about = summary(totals(layers), counted)
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], about]) + "\n"


def _cells(layers: Sequence[LayerCost]) -> list[tuple[str, ...]]:
    """Returns the header, the rows and the totals as text, with a column of packed bytes only if something is packed."""
    total = totals(layers)
    rows: list[tuple[str, ...]] = [
        (
            layer.name,
            "x".join(map(str, layer.shape)),
            _count(layer.weight_bits),
            _count(layer.act_bits),
            _count(layer.parameters),
            _count(layer.float_bytes),
            _count(layer.packed_bytes),
            _count(layer.macs),
            _count(layer.bops),
        )
        for layer in layers
    ]
    sums = (total.parameters, total.float_bytes, total.packed_bytes, total.macs, total.bops)
    rows = [_COLUMNS, *rows, ("total", "", "", "", *map(_count, sums))]
    if total.packed_bytes is None:
        packed = _COLUMNS.index("packed bytes")
        rows = [(*row[:packed], *row[packed + 1 :]) for row in rows]
    return rows


def _count(value: int | None) -> str:
    return f"{value:,}" if value else ""


def summary(total: Totals, counted: str = "parameters") -> str:
    """Describes the whole network in a sentence or two.

    Args:
      total: the sums over its layers.
      counted: what its parameters are called, which is "weights" for an integer network.
    """
    text = f"{total.parameters:,} {counted}"
    if total.clipping_levels:
        text += f" ({total.parameters - total.clipping_levels:,} without clipping levels)"
    text += f", {total.binary_parameters:,} of them binary."
    if total.packed_bytes is not None:
        text += (
            f" {total.float_bytes:,} bytes as float32, {total.packed_bytes:,} as a packed file: "
            f"{total.compression:.1f} times smaller."
        )
    return (
        f"{text} {100 * total.binary_mac_share:.1f} % of the {total.macs / 1e6:,.1f} million MACs are binary."
    )
