"""The float network that an `IntegerNetwork` replaces: the same layers without quantizers, to compare speeds."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from qresnet_jax.ops.plain import Form, plain_conv
from qresnet_jax.pixels import normalize
from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.nodes import Node

HIGHEST = jax.lax.Precision.HIGHEST  # full float32, also on devices whose default is less


def float_baseline(network: IntegerNetwork) -> Callable[[jax.Array], jax.Array]:
    """Returns a float32 network of the same architecture with random weights, compiled by XLA.

    Batch norm is merged into the convolutions, as one would ship it. A ReLU stands wherever the integer
    network has a ReLU or thresholds of an accumulator.

    Args:
      network: the integer network, whose layers it has.

    Returns:
      A function from uint8 images `[N, H, W, C]` to float32 logits `[N, classes]`.
    """
    weights = _weights(network)

    @jax.jit
    def run(weights: Sequence[Any], images: jax.Array) -> jax.Array:
        values: list[jax.Array] = []
        for i, node in enumerate(network.nodes):
            values.append(_apply(network, node, weights[i], images, *(values[j] for j in node.inputs)))
        return values[-1]

    return functools.partial(run, weights)


def _weights(network: IntegerNetwork) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """Returns a kernel and a bias for each node that has weights, and None for the others."""
    rng = np.random.default_rng(0)
    found: list[tuple[np.ndarray, np.ndarray] | None] = []
    for node in network.nodes:
        shape = next((getattr(node, a).shape for a in ("signs", "weights") if hasattr(node, a)), None)
        if shape is None:
            found.append(None)
        else:
            kernel = rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape)
            found.append((kernel.astype(np.float32), np.zeros(shape[-1], np.float32)))
    return found


def _apply(
    network: IntegerNetwork, node: Node, weights: Any, images: jax.Array, x: Any = None, *others: Any
) -> jax.Array:
    match node:
        case nodes.StemNode() | nodes.BinaryConvNode():
            x = normalize(images, np.float32(128)) if x is None else x
            form = Form(node.window.padding, node.groups if isinstance(node, nodes.BinaryConvNode) else 1)
            return plain_conv(x, weights[0], node.window.strides, form, precision=HIGHEST) + weights[1]
        case nodes.ThresholdsNode():
            feeds_stream = isinstance(network.nodes[node.inputs[0]], nodes.ReluNode)
            return x if feeds_stream else jnp.maximum(x, 0)
        case nodes.RequantizeNode():
            return x
        case nodes.AddNode():
            return x + others[0]
        case nodes.ReluNode():
            return jnp.maximum(x, 0)
        case nodes.ConcatNode():
            return jnp.concatenate([x, *others], axis=3)
        case nodes.MaxPoolNode():
            return _reduce(x, node.window, -jnp.inf, jax.lax.max)
        case nodes.MeanPoolNode():
            if node.window is None:
                return x.mean((1, 2), keepdims=True)
            return _reduce(x, node.window, 0.0, jax.lax.add) / np.prod(node.window.size)
        case nodes.ClassifierNode():
            return jnp.matmul(x.reshape(len(x), -1), weights[0], precision=HIGHEST) + weights[1]
    raise TypeError(f"no such node: {node}")


def _reduce(x: jax.Array, window: Window, start: float, combine: Callable[..., Any]) -> jax.Array:
    size, strides, padding = (1, *window.size, 1), (1, *window.strides, 1), ((0, 0), *window.padding, (0, 0))
    return jax.lax.reduce_window(x, start, combine, size, strides, padding)
