"""Builds an ONNX graph and writes it to a file; `writer` and `qonnx` add the operators."""

import json
import os
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qresnet_jax.errors import ExportError
from qresnet_jax.ship import nodes
from qresnet_jax.ship.geometry import Window
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.nodes import Value
from qresnet_jax.system.files import as_path, write_all

if TYPE_CHECKING:
    import onnx

OPSET = 17  # it is of 2022, and nothing newer is needed
IR_VERSION = 8  # the version that belongs to opset 17

Shape = Sequence[int | str]  # a string is the name of a size that may be any


def import_onnx() -> ModuleType:
    """Imports the package onnx and returns it.

    Raises:
      ExportError: if it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ExportError(
            "writing ONNX files needs the package onnx, which is not installed: pip install onnx, or 'qresnet-jax[onnx]'"
        ) from error
    return onnx


class Graph:
    """An ONNX graph under construction: operators and constants in the order in which they are added.

    Args:
      image_shape: shape of the input `image`, which is uint8.
    """

    def __init__(self, image_shape: Shape) -> None:
        self._onnx = import_onnx()
        self._image = self._value("image", np.uint8, image_shape)
        self._operators: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._names = {"image"}

    def constant(self, name: str, array: np.ndarray | np.generic) -> str:
        """Adds a constant of the array's dtype.

        Returns:
          The constant's name: `name`, with a number added if that is taken.
        """
        name = self._free(name)
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def operator(
        self, name: str, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        """Adds an operator with one result.

        Args:
          name: name of the operator and of its result, with a number added if that is taken.
          op_type: type of the operator.
          inputs: names of earlier results and constants.
          output: name of the result, if it must differ from the operator's.
          attributes: attributes of the operator, and its `domain`.

        Returns:
          The result's name.
        """
        name = self._free(name)
        result = name if output is None else self._free(output)
        self._operators.append(self._onnx.helper.make_node(op_type, inputs, [result], name, **attributes))
        return result

    def model(
        self,
        logits_dtype: npt.DTypeLike,
        logits_shape: Shape,
        metadata: Mapping[str, str],
        opsets: Mapping[str, int] | None = None,
    ) -> "onnx.ModelProto":
        """Returns the finished model.

        Args:
          logits_dtype: dtype of the output `logits`.
          logits_shape: shape of the output `logits`.
          metadata: the model's `metadata_props`.
          opsets: versions of operator domains besides ONNX's own.
        """
        helper = self._onnx.helper
        logits = self._value("logits", logits_dtype, logits_shape)
        graph = helper.make_graph(self._operators, "qresnet_jax", [self._image], [logits], self._constants)
        versions = {"": OPSET, **(opsets or {})}
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*item) for item in versions.items()],
            ir_version=IR_VERSION,
            producer_name="qresnet_jax",
        )
        helper.set_model_props(model, metadata)
        return model

    def _free(self, name: str) -> str:
        free, count = name, 0
        while free in self._names:
            count += 1
            free = f"{name}_{count}"
        self._names.add(free)
        return free

    def _value(self, name: str, dtype: npt.DTypeLike, shape: Shape) -> "onnx.ValueInfoProto":
        return self._onnx.helper.make_tensor_value_info(name, element_type(dtype), shape)


class LayerOperators:
    """A helper that adds the operators of one layer. Every method returns the name of its result.

    Args:
      graph: the graph that operators and constants are added to.
      name: name of the layer; its operators and constants are called `NAME/...`.
    """

    def __init__(self, graph: Graph, name: str) -> None:
        self._graph, self._name = graph, name

    def __call__(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return self._graph.operator(f"{self._name}/{op_type}", op_type, inputs, **attributes)

    def constant(self, name: str, array: np.ndarray | np.generic) -> str:
        """Adds a constant of the array's dtype."""
        return self._graph.constant(f"{self._name}/{name}", array)

    def per_channel(self, name: str, array: np.ndarray) -> str:
        """Adds a constant `[C]` as `[1, C, 1, 1]`."""
        return self.constant(name, array.reshape(1, -1, 1, 1))

    def cast(self, x: str, dtype: npt.DTypeLike) -> str:
        """Converts x to a NumPy dtype."""
        return self("Cast", x, to=element_type(dtype))

    def conv(self, x: str, kernel: str, window: Window, groups: int = 1) -> str:
        """Convolves x, NCHW, with a kernel, OIHW, and zeros around the image."""
        return self("Conv", x, kernel, group=groups, **window_attributes(window))

    def max_pool(self, x: str, window: Window) -> str:
        """Pools float x as `nodes.MaxPoolNode` does."""
        return self("MaxPool", x, **window_attributes(window))


def window_attributes(window: Window) -> dict[str, Sequence[int]]:
    """Returns the attributes that ONNX's convolutions and pools have for a window."""
    (top, bottom), (left, right) = window.padding
    return {"kernel_shape": window.size, "strides": window.strides, "pads": [top, left, bottom, right]}


def channels_first(weights: np.ndarray, x: Value) -> np.ndarray:
    """Returns a classifier's weights with rows in the order channel, height, width, that of a flattened NCHW tensor.

    Args:
      weights: `[height * width * channels, classes]`, rows in the order height, width, channel.
      x: what is known about the classifier's input.
    """
    rows = np.arange(len(weights)).reshape(-1, x.channels)
    return weights[rows.T.ravel()]


def element_type(dtype: npt.DTypeLike) -> int:
    """Returns ONNX's number for a NumPy dtype."""
    return import_onnx().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def layer_name(network: IntegerNetwork, i: int) -> str:
    """Returns the name of node i, or its type and position if it has no name."""
    node = network.nodes[i]
    return node.name or f"{nodes.kind(node).lower()}_{i}"


def with_shapes(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Returns the model with the shapes of all its tensors.

    Raises:
      onnx.shape_inference.InferenceError: if its operators do not fit together.
    """
    return import_onnx().shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )


def metadata(network: IntegerNetwork, logit_scale: float, description: str) -> dict[str, str]:
    """Returns what a user of the file needs to know, as text, or as JSON if it is more than a number or a sentence."""
    return {
        "description": description,
        "class_names": json.dumps(network.class_names),
        "logit_scale": repr(float(logit_scale)),
        "mean": json.dumps(network.mean.tolist()),
    }


def save(model: "onnx.ModelProto", path: str | os.PathLike[str]) -> None:
    """Writes a model. A file that is already at `path` is replaced at once or not at all.

    Raises:
      UserError: if the file cannot be written.
    """
    write_all({as_path(path): model.SerializeToString(deterministic=True)})
