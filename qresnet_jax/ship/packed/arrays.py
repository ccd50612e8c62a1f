"""Writes and reads the nodes of a packed file.

Each node is one JSON object. Arrays of the same kind, such as all thresholds, are joined into one flat
tensor. docs/packed_format.md describes the format for readers in any language. Two rules hold throughout:
output channels come first and input channels last; and a sign is one bit, 1 for +1, the first in the lowest
bit of a byte.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Pair, Window
from qresnet_jax.ship.nodes import Node

# All tensors that a file may have. Of a name and its `_wide` form, an array goes to the first if its values fit; likewise of
# a `_narrow` form and its name.
TENSOR_DTYPES = {
    "stem_weights_narrow": "|i1",
    "stem_weights": "<i2",
    "signs": "|u1",  # bits
    "directions": "|u1",  # bits
    "thresholds": "<i2",
    "thresholds_wide": "<i4",
    "multipliers": "<i4",
    "offsets": "<i4",
    "offsets_wide": "<i8",
    "shifts": "|u1",
    "classifier_weights": "<i2",
    "classifier_bias": "<i4",
}
_OPS: dict[str, type[Node]] = {
    "stem": nodes.StemNode,
    "binary_conv": nodes.BinaryConvNode,
    "thresholds": nodes.ThresholdsNode,
    "requantize": nodes.RequantizeNode,
    "add": nodes.AddNode,
    "relu": nodes.ReluNode,
    "concat": nodes.ConcatNode,
    "max_pool": nodes.MaxPoolNode,
    "mean_pool": nodes.MeanPoolNode,
    "classifier": nodes.ClassifierNode,
}
_NAMES = {node: op for op, node in _OPS.items()}


def pack_signs(signs: np.ndarray) -> np.ndarray:
    """Packs signs, -1 or +1, into bytes.

    Args:
      signs: integers of any shape, taken in C order.

    Returns:
      uint8 `[ceil(signs.size / 8)]`. A bit is 1 for +1, the first sign is in the lowest bit, and the last
      byte is padded with 0.
    """
    return np.packbits(signs.ravel() > 0, bitorder="little")


def unpack_signs(packed: np.ndarray, count: int) -> np.ndarray:
    """Returns the first `count` signs from the bytes of `pack_signs`, int8 `[count]`."""
    return np.unpackbits(packed, count=count, bitorder="little").astype(np.int8) * 2 - 1


def _output_first(kernel: np.ndarray) -> np.ndarray:
    return kernel.transpose(3, 0, 1, 2)


class NodeWriter:
    """A writer that describes nodes as JSON and collects their arrays, in the order of the calls."""

    def __init__(self) -> None:
        self._parts: dict[str, list[np.ndarray]] = {name: [] for name in TENSOR_DTYPES}

    def write(self, i: int, node: Node) -> dict[str, Any]:
        """Returns the JSON object of the node at position i, and keeps its arrays."""
        entry: dict[str, Any] = {"op": _NAMES[type(node)]}
        if node.name:
            entry["name"] = node.name
        if node.inputs != _usual_inputs(i):
            entry["inputs"] = list(node.inputs)
        return entry | self._arrays(node)

    def _arrays(self, node: Node) -> dict[str, Any]:
        match node:
            case nodes.StemNode():
                weights = _output_first(node.weights)
                narrow = _fits(weights, "stem_weights_narrow")
                self._put("stem_weights_narrow" if narrow else "stem_weights", weights)
                fields = _window_fields(node.window, Window.centered(node.window.size))
                return {"shape": list(weights.shape)} | ({"narrow": True} if narrow else {}) | fields
            case nodes.BinaryConvNode():
                signs = _output_first(node.signs)
                self._put("signs", pack_signs(signs))
                groups = {} if node.groups == 1 else {"groups": node.groups}
                fields = _window_fields(node.window, Window.centered(node.window.size))
                return {"shape": list(signs.shape)} | groups | fields
            case nodes.MaxPoolNode():
                size = {} if node.window.size == MAX_POOL_SIZE else {"window": list(node.window.size)}
                return size | _window_fields(node.window, _max_pool(node.window.size))
            case nodes.MeanPoolNode() if node.window is not None:
                return {"window": list(node.window.size)} | _window_fields(
                    node.window, Window(node.window.size)
                )
            case nodes.ThresholdsNode():
                self._put("directions", pack_signs(node.direction))
                levels = node.levels.tolist()
                uniform = levels == list(range(len(levels)))
                entry = {"shape": list(node.thresholds.shape)} | ({} if uniform else {"levels": levels})
                return entry | self._put_narrow_or_wide("thresholds", node.thresholds)
            case nodes.RequantizeNode():
                self._put("multipliers", node.multiplier)
                self._put("shifts", node.shift)
                return {"channels": len(node.shift)} | self._put_narrow_or_wide("offsets", node.offset)
            case nodes.ClassifierNode():
                weights = self._put("classifier_weights", node.weights.T)
                self._put("classifier_bias", node.bias)
                return {"shape": list(weights.shape)}
        return {}

    def _put(self, name: str, array: np.ndarray) -> np.ndarray:
        self._parts[name].append(array.ravel().astype(TENSOR_DTYPES[name]))
        return array

    def _put_narrow_or_wide(self, name: str, array: np.ndarray) -> dict[str, bool]:
        wide = not _fits(array, name)
        self._put(f"{name}_wide" if wide else name, array)
        return {"wide": True} if wide else {}

    def tensors(self) -> dict[str, np.ndarray]:
        """Returns all arrays so far, as one flat tensor for each name that has any."""
        return {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}


def _fits(array: np.ndarray, name: str) -> bool:
    """Returns whether a tensor can hold all numbers of an array."""
    limits = np.iinfo(TENSOR_DTYPES[name])
    return bool(limits.min <= array.min() and array.max() <= limits.max)


def _usual_inputs(i: int) -> tuple[int, ...]:
    return (i - 1,) if i else ()


MAX_POOL_SIZE = (3, 3)  # of a `max_pool` that has no `window`


def _max_pool(size: Pair) -> Window:
    """Returns the usual window of a `max_pool`."""
    return Window.centered(size, stride=2)


def _window_fields(window: Window, usual: Window) -> dict[str, Any]:
    """Returns the strides and the padding of a window, if they are not the usual ones."""
    entry: dict[str, Any] = {}
    if window.strides != usual.strides:
        down, right = window.strides
        entry["stride"] = down if down == right else [down, right]
    if window.padding != usual.padding:
        entry["padding"] = [list(border) for border in window.padding]
    return entry


class NodeReader:
    """A reader for what a `NodeWriter` wrote, which must be read in the same order.

    All its methods raise ValueError on what no `NodeWriter` writes. They do not check whether the nodes fit
    together.

    Args:
      tensors: the tensors of the file, by name.
      double_mean: twice the pixel means, int16 `[channels]`.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], double_mean: np.ndarray) -> None:
        self._tensors, self._double_mean = tensors, double_mean
        self._taken = dict.fromkeys(tensors, 0)

    def read(self, i: int, entry: dict[str, Any]) -> Node:
        """Returns the node at position i from its JSON object."""
        op = entry.get("op") if isinstance(entry, dict) else None
        if not isinstance(op, str) or op not in _OPS:
            raise ValueError(f"node {i} has no known op: {entry!s:.60}")
        try:
            name, inputs = entry.get("name", ""), entry.get("inputs", list(_usual_inputs(i)))
            if not isinstance(name, str):
                raise ValueError(f"its name must be text, got {name!s:.60}")
            return _OPS[op](name=name, inputs=tuple(_integers(inputs, "inputs")), **self._arrays(op, entry))
        except ValueError as error:
            raise ValueError(f"node {i}, {op}: {error}") from error

    def finish(self) -> None:
        """Refuses tensors with more numbers than the nodes use."""
        for name, tensor in self._tensors.items():
            if self._taken[name] != len(tensor):
                raise ValueError(
                    f"tensor {name} has {len(tensor)} numbers, but the nodes use {self._taken[name]}"
                )

    def _arrays(self, op: str, entry: dict[str, Any]) -> dict[str, Any]:
        match op:
            case "stem":
                name = "stem_weights_narrow" if _flag(entry, "narrow") else "stem_weights"
                weights = self._take(name, _shape(entry, 4)).astype(np.int16)
                kernel = weights.transpose(1, 2, 3, 0)
                window = _read_window(entry, Window.centered(kernel.shape[:2]))
                return {"weights": kernel, "double_mean": self._double_mean, "window": window}
            case "binary_conv":
                signs = self._signs("signs", _shape(entry, 4)).transpose(1, 2, 3, 0)
                window = _read_window(entry, Window.centered(signs.shape[:2]))
                (groups,) = _integers([entry.get("groups", 1)], "groups")
                return {"signs": signs, "window": window, "groups": groups}
            case "max_pool":
                size = _pair(entry.get("window", list(MAX_POOL_SIZE)), "window")
                return {"window": _read_window(entry, _max_pool(size))}
            case "mean_pool" if "window" in entry:
                return {"window": _read_window(entry, Window(_pair(entry["window"], "window")))}
            case "thresholds":
                rows, n = _shape(entry, 2)
                thresholds = self._narrow_or_wide("thresholds", entry, (rows, n)).astype(np.int32)
                levels = _integers(entry.get("levels", list(range(n + 1))), "levels")
                if len(levels) != n + 1 or max(levels) > nodes.MAX_LEVEL:
                    raise ValueError(f"{n} thresholds need {n + 1} levels of at most {nodes.MAX_LEVEL}")
                return {
                    "thresholds": thresholds,
                    "direction": self._signs("directions", (rows,)),
                    "levels": np.array(levels, np.int32),
                }
            case "requantize":
                (channels,) = shape = _integers([entry.get("channels")], "channels")
                return {
                    "multiplier": self._take("multipliers", shape).astype(np.int32),
                    "shift": self._take("shifts", (channels,)).astype(np.uint8),
                    "offset": self._narrow_or_wide("offsets", entry, shape).astype(np.int64),
                }
            case "classifier":
                classes, features = _shape(entry, 2)
                return {
                    "weights": self._take("classifier_weights", (classes, features)).astype(np.int16).T,
                    "bias": self._take("classifier_bias", (classes,)).astype(np.int32),
                }
        return {}

    def _take(self, name: str, shape: Sequence[int], count: int | None = None) -> np.ndarray:
        count = math.prod(shape) if count is None else count
        start, tensor = self._taken.get(name, 0), self._tensors.get(name)
        if tensor is None:
            raise ValueError(f"tensor {name} is missing")
        if start + count > len(tensor):
            raise ValueError(
                f"tensor {name} has {len(tensor)} numbers, but at least {start + count} are needed"
            )
        self._taken[name] = start + count
        return tensor[start : start + count].reshape(shape)

    def _signs(self, name: str, shape: Sequence[int]) -> np.ndarray:
        count = math.prod(shape)
        nbytes = -(-count // 8)
        return unpack_signs(self._take(name, (nbytes,)), count).reshape(shape)

    def _narrow_or_wide(self, name: str, entry: dict[str, Any], shape: Sequence[int]) -> np.ndarray:
        return self._take(f"{name}_wide" if _flag(entry, "wide") else name, shape)


def _flag(entry: dict[str, Any], name: str) -> bool:
    value = entry.get(name, False)
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be true or false, got {value!s:.60}")
    return value


def _integers(values: Any, what: str) -> list[int]:
    if not isinstance(values, list) or not all(type(v) is int and 0 <= v < 2**31 for v in values):
        raise ValueError(f"{what} must be integers from 0 to 2**31 - 1, got {values!s:.60}")
    return values


def _shape(entry: dict[str, Any], rank: int) -> tuple[int, ...]:
    shape = _integers(entry.get("shape"), "shape")
    if len(shape) != rank or 0 in shape:
        raise ValueError(f"shape must be {rank} sizes above 0, got {shape!s:.60}")
    return tuple(shape)


def _read_window(entry: dict[str, Any], usual: Window) -> Window:
    """Returns the window of the usual size, with the strides and the padding that an entry gives it."""
    window = usual
    if "stride" in entry:
        stride = entry["stride"]
        window = window._replace(strides=_pair([stride, stride] if type(stride) is int else stride, "stride"))
    if "padding" in entry:
        borders = entry["padding"]
        if not isinstance(borders, list) or len(borders) != 2:
            raise ValueError(f"padding must be two pairs, got {borders!s:.60}")
        rows, columns = (_pair(border, "padding") for border in borders)
        window = window._replace(padding=(rows, columns))
    return window


def _pair(values: Any, what: str) -> Pair:
    numbers = _integers(values, what)
    if len(numbers) != 2:
        raise ValueError(f"{what} must be two numbers, got {values!s:.60}")
    return numbers[0], numbers[1]
