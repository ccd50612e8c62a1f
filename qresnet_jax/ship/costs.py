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
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.nn.recording import Step
from qresnet_jax.ship import nodes
from qresnet_jax.ship.fold import fold, steps_of, why_float
from qresnet_jax.ship.network import IntegerNetwork
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
    model: nnx.Module, image_shape: tuple[int, int, int], network: IntegerNetwork | None = None
) -> list[LayerCost]:
    """Returns the costs of a trained network's layers, in the order in which they are computed.

    Args:
      model: a network of the layers in `qresnet_jax.nn`, in any mode.
      image_shape: `(height, width, channels)`.
      network: the integer form of `model`, if it is at hand. Otherwise `model` is folded here if it has an
        integer form, without class names and image size in the file's header.

    Raises:
      ValueError: if the images do not have as many channels as the network.
      ExportError: if `model` is folded here and has sums that reach 2**24, or parameters that are not finite.
    """
    steps = steps_of(model, image_shape[:2])
    channels = next(s.operation.in_features for s in steps if isinstance(s.operation, nn.StemConv))
    if image_shape[-1] != channels:
        raise ValueError(f"image_shape={image_shape}: this network has {channels} channels")
    rows = _model_rows(steps)
    if network is None:
        if why_float(model) is not None:
            return rows
        network = fold(model)
    *shipped, header = network_table(network, image_shape[:2])
    return [*(_as_shipped(*pair) for pair in zip(rows, shipped, strict=True)), header]


def network_table(network: IntegerNetwork, image_size: tuple[int, int] | None = None) -> list[LayerCost]:
    """Returns the costs of an integer network's layers. Only weights count as parameters: the rest became thresholds.

    Args:
      network: a network from `fold` or `read_packed`.
      image_size: `(height, width)` of the images. It may be left out if the network takes images of one size
        only.

    Raises:
      ValueError: if the network takes images of any size, and no `image_size` is given.
    """
    height, width = (network.height, network.width) if image_size is None else image_size
    if height is None or width is None:
        raise ValueError("this network takes images of any size: give an image_size")
    values = nodes.value_types(network.nodes)
    tensor_bytes = [_tensor_bytes(node) for node in network.nodes]
    packed = [0] * len(values)
    for size_of_node, owner in zip(tensor_bytes, _owners(network.nodes, values), strict=True):
        packed[owner] += size_of_node
    rows = []
    for i in np.flatnonzero(packed).tolist():
        row = _network_row(i, network.nodes, _positions((height, width), values[i].reduction))
        rows.append(dataclasses.replace(row, packed_bytes=packed[i]))
    header = len(packed_bytes(network)) - sum(tensor_bytes)
    return [*rows, LayerCost(name=HEADER, packed_bytes=header)]


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


_WithKernel = nn.StemConv | nn.BinaryConv | nn.FloatConv | nn.Classifier


def _model_rows(steps: Sequence[Step]) -> list[LayerCost]:
    """Returns a row for each layer with a kernel, and for each batch norm that belongs to none."""
    owned: dict[int, list[nnx.Module]] = {}
    counted: set[int] = set()  # a layer that is called again has no further parameters
    for i, step in enumerate(steps):
        if isinstance(step.operation, nnx.Module):
            modules = owned.setdefault(_owner(i, steps), [])
            if id(step.operation) not in counted:
                counted.add(id(step.operation))
                modules.append(step.operation)
    rows = [_model_row(i, steps, modules) for i, modules in sorted(owned.items())]
    return [row for row in rows if row.parameters or row.macs]


def _owner(i: int, steps: Sequence[Step]) -> int:
    """Returns the position of the step whose row counts the parameters of step i."""
    step = steps[i]
    if isinstance(step.operation, _WithKernel):
        return i
    if isinstance(step.operation, nn.BatchNorm):
        before = step.inputs[0]
        while isinstance(steps[before].operation, nn.BatchNorm):
            before = steps[before].inputs[0]
        if isinstance(steps[before].operation, _WithKernel):
            return before
    reader = i
    while not isinstance(steps[reader].operation, _WithKernel):
        readers = [j for j in range(reader + 1, len(steps)) if reader in steps[j].inputs]
        if not readers or isinstance(steps[readers[0]].result, nn.Stream):
            return i
        reader = readers[0]
    return i if isinstance(steps[reader].operation, nn.Classifier) else reader


def _model_row(i: int, steps: Sequence[Step], owned: Sequence[nnx.Module]) -> LayerCost:
    layer = steps[i].operation
    row = LayerCost(
        name=steps[i].path,
        parameters=sum(_parameters(module, nnx.Param) for module in owned),
        clipping_levels=sum(_parameters(module, nn.ClippingLevel) for module in owned),
    )
    if not isinstance(layer, _WithKernel):
        return row
    kernel = layer.kernel[...]
    before = steps[steps[i].inputs[0]].operation if steps[i].inputs[0] >= 0 else None
    return dataclasses.replace(
        row,
        shape=kernel.shape,
        weight_bits=1 if isinstance(layer, nn.BinaryConv) else FLOAT_BITS,
        act_bits=before.bits if isinstance(before, nn.Quantizer) else FLOAT_BITS,
        macs=kernel.size * math.prod(steps[i].result.shape[1:-1]),
    )


def _as_shipped(row: LayerCost, shipped: LayerCost) -> LayerCost:
    return dataclasses.replace(
        row,
        packed_bytes=shipped.packed_bytes,
        weight_bits=shipped.weight_bits,
        act_bits=shipped.act_bits,
    )


def _parameters(module: nnx.Module, kind: type[nnx.Param]) -> int:
    return sum(x.size for x in jax.tree.leaves(nnx.state(module, kind)))


def _positions(image_size: tuple[int, int], reduction: int) -> int:
    """Returns how often a layer's kernel is applied: once per pixel of its result, or once if the result is no image."""
    return math.prod(-(-size // reduction) for size in image_size) if reduction else 1


# An integer network's nodes.


def _owners(network_nodes: Sequence[nodes.Node], values: Sequence[nodes.Value]) -> list[int]:
    """Returns, for each node, the position of the node whose row counts its arrays.

    What follows an accumulator counts with the convolution that made it. Thresholds of the stream count with
    the first convolution that reads them.
    """
    owners = []
    for i, node in enumerate(network_nodes):
        if (
            isinstance(node, nodes.ThresholdsNode | nodes.RequantizeNode)
            and values[node.inputs[0]].kind == "acc"
        ):
            owners.append(node.inputs[0])
        elif isinstance(node, nodes.ThresholdsNode):
            owners.append(next((j for j in range(i + 1, len(values)) if i in network_nodes[j].inputs), i))
        else:
            owners.append(i)
    return owners


def _tensor_bytes(node: nodes.Node) -> int:
    writer = NodeWriter()
    writer.write(1, node)  # the position matters only for the JSON
    return sum(x.nbytes for x in writer.tensors().values())


def _network_row(i: int, network_nodes: Sequence[nodes.Node], positions: int) -> LayerCost:
    match node := network_nodes[i]:
        case nodes.StemNode():
            kernel, bits, name = node.weights, (integer_bits(node.weights), PIXEL_BITS), "stem"
        case nodes.BinaryConvNode():
            kernel, bits = node.signs, (1, _level_bits(network_nodes[node.inputs[0]]))
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


def integer_bits(weights: np.ndarray) -> int:
    """Returns the bits of the shortest two's complement that holds all `weights`, at least 2."""
    return 1 + max(int(weights.max()), -1 - int(weights.min()), 1).bit_length()


def _level_bits(thresholds: nodes.Node) -> int:
    assert isinstance(thresholds, nodes.ThresholdsNode)  # nothing else makes levels
    return (len(thresholds.levels) - 1).bit_length()


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
