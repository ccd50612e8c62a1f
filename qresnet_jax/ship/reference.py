"""The reference engine, which computes an `IntegerNetwork` in plain NumPy.

Every other engine must give the same integers. Convolutions are float32 matrix products: all their sums are
integers below 2**24 (`nodes.ACC_LIMIT`), which float32 adds exactly in any order. Everything else is computed
in integers.
"""

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.nodes import Node

BATCH = 16  # images that are computed at once; more are not faster, and need more memory


def logits(network: IntegerNetwork, images: np.ndarray) -> np.ndarray:
    """Computes logits.

    Args:
      network: a network from `fold` or from a packed file.
      images: uint8 `[N, H, W, C]`.

    Returns:
      int32 `[N, classes]`; times `network.logit_scale` they are the logits of training.

    Raises:
      ValueError: if the images do not have the network's shape, or are not uint8.
    """
    check_images(network.image_shape, images, network.least_size)
    last = len(network.nodes) - 1
    parts = [
        node_values(network, images[i : i + BATCH], [last])[last]
        for i in range(0, max(len(images), 1), BATCH)
    ]
    return np.concatenate(parts)


def check_images(
    image_shape: Sequence[int | None], images: Any, least_size: tuple[int, int] = (1, 1)
) -> None:
    """Checks that images are uint8 `[N, H, W, C]`.

    Args:
      image_shape: `(height, width, channels)` that the network takes, with None for a size that may be any.
      images: the images.
      least_size: the least height and width that the network takes.

    Raises:
      ValueError: if they are not, or are too small.
    """
    dtype, shape = getattr(images, "dtype", type(images).__name__), np.shape(images)
    is_images = dtype == np.uint8 and len(shape) == 4 and 0 not in shape[1:]
    if not is_images or any(
        want not in (None, got) for want, got in zip(image_shape, shape[1:], strict=True)
    ):
        height, width, channels = (size or name for size, name in zip(image_shape, "HWC", strict=True))
        raise ValueError(f"images must be uint8 [N, {height}, {width}, {channels}], got {dtype} {shape}")
    if shape[1] < least_size[0] or shape[2] < least_size[1]:
        raise ValueError(
            f"images must have at least {least_size[0]} x {least_size[1]} pixels for this network, got {shape[1]} x {shape[2]}"
        )


def node_values(
    network: IntegerNetwork, images: np.ndarray, wanted: Collection[int] | None = None
) -> dict[int, np.ndarray]:
    """Computes the results of single nodes, for all images at once.

    Args:
      network: a network from `fold` or from a packed file.
      images: uint8 `[N, H, W, C]`.
      wanted: positions of the nodes whose results are returned, or None for all nodes.

    Returns:
      The results by position, integers `[N, H', W', C']` or `[N, C']`.
    """
    wanted = range(len(network.nodes)) if wanted is None else wanted
    last_reader = {j: i for i, node in enumerate(network.nodes) for j in node.inputs}
    values: dict[int, np.ndarray] = {}
    for i, node in enumerate(network.nodes):
        values[i] = _apply(node, images, *(values[j] for j in node.inputs))
        for j in set(node.inputs):
            if last_reader[j] == i and j not in wanted:
                del values[j]
    return {i: values[i] for i in wanted}


def _apply(node: Node, images: np.ndarray, x: Any = None, *others: Any) -> np.ndarray:
    match node:
        case nodes.StemNode():
            return _convolve(2 * images.astype(np.int32) - node.double_mean, node.weights, node.window)
        case nodes.BinaryConvNode():
            if node.groups == 1:
                return _convolve(x, node.signs, node.window)
            parts = zip(
                np.split(x, node.groups, axis=3), np.split(node.signs, node.groups, axis=3), strict=True
            )
            return np.concatenate([_convolve(*part, node.window) for part in parts], axis=3)
        case nodes.ThresholdsNode():
            return node.levels[_passed(x, node.thresholds, node.direction)]
        case nodes.RequantizeNode():
            return _saturate((x * node.multiplier.astype(np.int64) + node.offset) >> node.shift)
        case nodes.AddNode():
            return _saturate(x + others[0])
        case nodes.ReluNode():
            return np.maximum(x, 0)
        case nodes.ConcatNode():
            return np.concatenate([x, *others], axis=3)
        case nodes.MaxPoolNode():
            return _windows(x, node.window, border=nodes.STREAM_MIN).max(axis=3)
        case nodes.MeanPoolNode():
            window = node.window or Window((x.shape[1], x.shape[2]))
            seen = _windows(x, window)
            count = seen.shape[3]
            return (2 * seen.sum(axis=3, dtype=np.int64) + count) // (2 * count)
        case nodes.ClassifierNode():
            features = x.reshape(-1, len(node.weights))
            return (features @ node.weights.astype(np.int64) + node.bias).astype(np.int32)
    raise TypeError(f"no such node: {node}")


def _saturate(x: np.ndarray) -> np.ndarray:
    return np.clip(x, nodes.STREAM_MIN, nodes.STREAM_MAX).astype(np.int32)


def _windows(x: np.ndarray, window: Window, border: int = 0) -> np.ndarray:
    """Returns what the window sees at each place: `[N, H, W, C]` -> `[N, H', W', kh * kw, C]`."""
    (kh, kw), (down, right) = window.size, window.strides
    x = np.pad(x, ((0, 0), *window.padding, (0, 0)), constant_values=border)
    rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    taps = [x[:, i : i + rows : down, j : j + columns : right, None] for i in range(kh) for j in range(kw)]
    return np.concatenate(taps, axis=3)


def _convolve(x: np.ndarray, kernel: np.ndarray, window: Window) -> np.ndarray:
    kh, kw, features, out = kernel.shape
    windows = _windows(x.astype(np.float32), window)
    acc = windows.reshape(*windows.shape[:3], kh * kw * features) @ kernel.reshape(-1, out).astype(np.float32)
    return acc.astype(np.int32)


def _passed(x: np.ndarray, thresholds: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Returns how many thresholds of its channel each x passes."""
    if len(thresholds) == 1:
        return np.searchsorted(thresholds[0], direction[0] * x, side="right")
    count = np.empty(x.shape, np.int64)
    for c, row in enumerate(thresholds):
        count[..., c] = np.searchsorted(row, direction[c] * x[..., c], side="right")
    return count
