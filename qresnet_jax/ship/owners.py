"""Says which layer counts what: the parameters of a trained network's steps, and the arrays of an integer network's nodes."""

from collections.abc import Sequence
from typing import Any

from flax import nnx

from qresnet_jax import nn
from qresnet_jax.nn.recording import Step
from qresnet_jax.ship import nodes
from qresnet_jax.ship.fold import Folded
from qresnet_jax.ship.network import IntegerNetwork

# A trained network's steps.


def has_kernel(operation: Any) -> bool:
    """Returns whether a step is a layer with a kernel, that is, a convolution or a dense layer."""
    return isinstance(operation, nnx.Module) and hasattr(operation, "kernel")


def _changes_sums(operation: Any) -> bool:
    """Returns whether a step works on what a layer has summed, as a batch norm and a relu do."""
    others = nn.Quantizer | nn.FloatActivation
    is_layer = (
        isinstance(operation, nnx.Module) and not has_kernel(operation) and not isinstance(operation, others)
    )
    return is_layer or operation is nn.relu


def owner_of_layer(steps: Sequence[Step], i: int) -> int:
    """Returns the position of the step whose row counts the parameters of step i, which is a layer.

    That is the layer with a kernel whose sums it works on, or else the first one that reads what it makes. If there is
    none, it counts for itself, and so does a batch norm in front of the classifier.
    """
    before = i
    while _changes_sums(steps[before].operation) and steps[before].inputs[0] >= 0:
        before = steps[before].inputs[0]
    if has_kernel(steps[before].operation):
        return before
    reader = _first_reader(steps, i)
    is_norm = not isinstance(steps[i].operation, nn.Quantizer)
    if reader is None or (is_norm and isinstance(steps[reader].operation, nn.Classifier)):
        return i
    return reader


def _first_reader(steps: Sequence[Step], i: int) -> int | None:
    """Returns the first step with a kernel that reads the result of step i, before it becomes a part of the stream."""
    for j, step in enumerate(steps):
        if i in step.inputs and not isinstance(step.result, nn.Stream):
            reader = j if has_kernel(step.operation) else _first_reader(steps, j)
            if reader is not None:
                return reader
    return None


def quantizer_behind(steps: Sequence[Step], i: int) -> nn.Quantizer | None:
    """Returns the quantizer whose levels step i gives, its own or those that it reads; None if it gives no levels."""
    while i >= 0 and isinstance(steps[i].result, nn.Levels):
        if isinstance(quantizer := steps[i].operation, nn.Quantizer):
            return quantizer
        i = steps[i].inputs[0]
    return None


# An integer network's nodes.


def makers(folded: Folded) -> list[int]:
    """Returns, for each node, the position of the step that it was folded from."""
    made = [(node, step) for step, node in enumerate(folded.made) if node is not None]
    ends = [*(node for node, _ in made[1:]), len(folded.network.nodes)]
    return [step for (start, step), end in zip(made, ends, strict=True) for _ in range(start, end)]


def owners_of_nodes(network: IntegerNetwork) -> list[int]:
    """Returns, for each node, the position of the node whose row counts its arrays.

    What follows an accumulator counts with the convolution that made it. Thresholds of the stream count with
    the first convolution that reads their levels.
    """
    convs = [j for j, node in enumerate(network.nodes) if isinstance(node, nodes.BinaryConvNode)]
    first_readers: dict[nodes.Node, int] = {thresholds_behind(network, j): j for j in reversed(convs)}
    owners = []
    for i, node in enumerate(network.nodes):
        of_acc = bool(node.inputs) and network.values[node.inputs[0]].kind == "acc"
        owners.append(node.inputs[0] if of_acc else first_readers.get(node, i))
    return owners


def thresholds_behind(network: IntegerNetwork, i: int) -> nodes.ThresholdsNode:
    """Returns the node whose levels the convolution i reads, perhaps through pools."""
    while not isinstance(node := network.nodes[i], nodes.ThresholdsNode):
        (i,) = node.inputs
    return node


def layers_of_nodes(folded: Folded) -> list[int]:
    """Returns, for each node, the position of the step whose row counts its arrays, a layer."""
    made_by, layers = makers(folded), []
    for owner in owners_of_nodes(folded.network):
        step = made_by[owner]
        while not isinstance(folded.steps[step].operation, nnx.Module):
            step = folded.steps[step].inputs[0]
        layers.append(owner_of_layer(folded.steps, step))
    return layers
