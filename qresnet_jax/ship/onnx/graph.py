"""An ONNX graph under construction, and the file it becomes; `writer` and `qonnx` fill it."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from qresnet_jax.errors import ExportError
from qresnet_jax.ship import nodes
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.system.files import write_all

if TYPE_CHECKING:
    import onnx

OPSET = 17  # of 2022; what came later is not needed
IR_VERSION = 8  # the one that belongs to opset 17

Shape = Sequence[int | str]  # a size that is a string is free, and known by that name


def import_onnx() -> ModuleType:
    """The package onnx.

    Raises:
      ExportError: it is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise ExportError(
            "writing ONNX files needs the package onnx: pip install onnx, or 'qresnet-jax[onnx]'"
        ) from error
    return onnx


class Graph:
    """Operators and constants in the order in which they are added.

    Args:
      image_shape: of the input `image`, uint8.
    """

    def __init__(self, image_shape: Shape) -> None:
        self._onnx = import_onnx()
        self._image = self._value("image", np.uint8, image_shape)
        self._operators: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._names = {"image"}

    def constant(self, name: str, array: np.ndarray | np.generic) -> str:
        """Adds a constant of the array's dtype; returns its name, `name` with a number behind it if that is taken."""
        name = self._free(name)
        self._constants.append(self._onnx.numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def operator(
        self, name: str, op_type: str, inputs: Sequence[str], output: str | None = None, **attributes: Any
    ) -> str:
        """Adds an operator with one result.

        Args:
          name: of the operator and of its result, with a number behind it if that is taken.
          op_type: of the operator.
          inputs: names of earlier results and constants.
          output: name of the result, where it must have a certain one.
          attributes: of the operator; also its `domain`.

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
        """The finished model, an `onnx.ModelProto`.

        Args:
          logits_dtype: of the output `logits`.
          logits_shape: of the same.
          metadata: goes to `metadata_props`.
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
    """Adds the operators of one layer; every method returns the name of its result.

    Args:
      graph: to add to.
      name: of the layer; its operators and constants are called `NAME/...`.
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

    def conv(self, x: str, kernel: str, kernel_shape: Sequence[int], stride: int) -> str:
        """Convolves x, NCHW, with a kernel, OIHW, and `(k - 1) // 2` zeros around the image."""
        pads = [(size - 1) // 2 for size in kernel_shape] * 2
        return self("Conv", x, kernel, kernel_shape=kernel_shape, strides=[stride] * 2, pads=pads)

    def max_pool(self, x: str) -> str:
        """Pools float x as `nodes.MaxPoolNode` does."""
        return self("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])


def element_type(dtype: npt.DTypeLike) -> int:
    """ONNX's number for a NumPy dtype."""
    return import_onnx().helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


def layer_name(network: IntegerNetwork, i: int) -> str:
    """The name of node i, or else its type and position."""
    node = network.nodes[i]
    return node.name or f"{nodes.kind(node).lower()}_{i}"


def with_shapes(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """The model with the shapes of all its tensors; raises if its operators do not fit together."""
    return import_onnx().shape_inference.infer_shapes(
        model, check_type=True, strict_mode=True, data_prop=True
    )


def metadata(network: IntegerNetwork, logit_scale: float, description: str) -> dict[str, str]:
    """What a user of the file needs to know: text, JSON where it is more than a number."""
    return {
        "description": description,
        "class_names": json.dumps(network.class_names),
        "logit_scale": repr(float(logit_scale)),
        "mean": json.dumps(network.mean.tolist()),
    }


def save(model: "onnx.ModelProto", path: str | os.PathLike[str]) -> None:
    """Writes an `onnx.ModelProto`; a file at `path` is replaced at once or not at all."""
    write_all({pathlib.Path(path): model.SerializeToString(deterministic=True)})
