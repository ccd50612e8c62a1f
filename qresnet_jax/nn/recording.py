"""Records what a network computes, by calling it: `record` runs a model on a symbol instead of an image.

Each layer and each function of `qresnet_jax.nn` is marked with `recorded`. Called with a symbol, it computes nothing, but
adds a step to the recording and returns a new symbol. So the network's own `__call__` says what the network is.
"""

import functools
import sys
import traceback
from collections.abc import Callable, Iterable
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TypeVar, cast

import jax
import jax.numpy as jnp
from flax import nnx

from qresnet_jax.errors import ExportError

_Function = TypeVar("_Function", bound=Callable[..., Any])


class Step(NamedTuple):
    """One call of a layer or function."""

    operation: Any  # the layer, or the function itself
    path: str  # of the layer in the model, such as "stages.0.0.convs.0"; "" for a function
    caller: str  # the path of the module that makes the call, "" for the whole network
    inputs: tuple[int, ...]  # positions of the steps whose results it reads; -1 for the images
    options: dict[str, Any]  # the other arguments by name
    result: Any  # the abstract result: a carrier, or a `jax.ShapeDtypeStruct`


_ASKED_BY_JAX = ("aval", "sharding", "weak_type")  # attributes by which JAX finds out what it was given


class Symbol:
    """Stands for the result of a step. Only what `qresnet_jax.nn` offers can compute with it."""

    def __init__(self, recorder: "_Recorder", position: int, abstract: Any) -> None:
        self._recorder, self.position, self.abstract = recorder, position, abstract

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape that the array would have."""
        return cast(tuple[int, ...], self.abstract.shape)

    @property
    def ndim(self) -> int:
        """The number of axes that the array would have."""
        return len(self.shape)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype that the array would have."""
        return self.abstract.dtype

    def __add__(self, other: object) -> Any:
        from qresnet_jax.nn.functions import add

        return add(self, other)

    __radd__ = __add__

    def __array__(self, *_: Any, **__: Any) -> NoReturn:
        self.refuse("an operation of NumPy")

    def __bool__(self) -> NoReturn:
        self.refuse("a branch that depends on the values")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_") or name in _ASKED_BY_JAX:
            raise AttributeError(name)
        self.refuse(f"`.{name}`")

    def refuse(self, what: str) -> NoReturn:
        """Raises an `ExportError` that names the module which computes, and what it uses."""
        raise _refusal(self._recorder.caller(), what)


def _refusal(caller: str, what: str) -> ExportError:
    return ExportError(
        f"{caller or 'the network'} uses {what}, which has no integer form: use the layers and functions of "
        "qresnet_jax.nn (relu, max_pool, global_mean, `+`, ...)"
    )


def _refusing(name: str) -> Callable[..., NoReturn]:
    def refuse(self: Symbol, *_: Any) -> NoReturn:
        self.refuse(f"`{name}`")

    return refuse


for _name, _sign in {
    **{"sub": "-", "mul": "*", "truediv": "/", "matmul": "@", "pow": "**"},
    **{"rsub": "-", "rmul": "*", "rtruediv": "/", "rmatmul": "@"},
    **{
        "neg": "-",
        "abs": "abs",
        "len": "len",
        "getitem": "[]",
        "iter": "iteration",
        "lt": "<",
        "gt": ">",
        "le": "<=",
        "ge": ">=",
    },
}.items():
    setattr(Symbol, f"__{_name}__", _refusing(_sign))


def recorded(function: _Function) -> _Function:
    """Marks a layer's `__call__`, or a function on the results of layers, as one that can be recorded."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        for argument in args:
            if isinstance(argument, Symbol):
                return argument._recorder.add(call, function, args, kwargs)
        return function(*args, **kwargs)

    return cast(_Function, call)


def record(model: nnx.Module, image_shape: tuple[int, int, int]) -> list[Step]:
    """Returns the steps that a model computes, in their order.

    Args:
      model: the network, in evaluation mode; its `__call__` maps images to logits.
      image_shape: `(height, width, channels)` of the images.

    Raises:
      ExportError: the network computes something that cannot be recorded; the message names the module.
    """
    recorder = _Recorder(model)
    images = Symbol(recorder, -1, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    try:
        result = cast(Callable[[Symbol], Any], model)(images)
    except (TypeError, ValueError) as error:
        if Symbol.__name__ not in str(error):
            raise
        caller = recorder.caller(list(traceback.walk_tb(error.__traceback__)))
        raise _refusal(caller, "an operation of jax.numpy or Flax") from error
    if not isinstance(result, Symbol) or result.position != len(recorder.steps) - 1:
        raise ExportError("the network must return the result of its last layer, a qresnet_jax.nn.Classifier")
    return recorder.steps


def dotted(path: Iterable[object]) -> str:
    """Returns the path of a module as text, such as "stages.0.0.convs.0"."""
    return ".".join(map(str, path))


class _Recorder:
    """The steps so far, and the paths of the model's modules."""

    def __init__(self, model: nnx.Module) -> None:
        self.steps: list[Step] = []
        self._paths = {id(module): dotted(path) for path, module in nnx.iter_modules(model)}

    def add(
        self, operation: Any, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Symbol:
        symbols = [a for a in args if isinstance(a, Symbol)]

        def compute(*values: Any) -> Any:
            given = iter(values)
            return function(*(next(given) if isinstance(a, Symbol) else a for a in args), **kwargs)

        layer = args[0] if isinstance(args[0], nnx.Module) else None
        path = "" if layer is None else self._path_of(layer)
        result = jax.eval_shape(compute, *(symbol.abstract for symbol in symbols))
        inputs = tuple(symbol.position for symbol in symbols)
        named = zip(function.__code__.co_varnames, args, strict=False)
        options = {name: a for name, a in named if not isinstance(a, Symbol | nnx.Module)} | kwargs
        self.steps.append(
            Step(operation if layer is None else layer, path, self.caller(), inputs, options, result)
        )
        return Symbol(self, len(self.steps) - 1, result)

    def _path_of(self, layer: nnx.Module) -> str:
        if id(layer) not in self._paths:
            raise ExportError(
                f"{self.caller() or 'the network'} calls a {type(layer).__name__} that is not one of its attributes: make it "
                "one in __init__"
            )
        return self._paths[id(layer)]

    def caller(self, frames: list[tuple[FrameType, int]] | None = None) -> str:
        """Returns the path of the innermost module that is being called, "" for the whole network.

        Args:
          frames: those of an error, the innermost last; by default those that are running.
        """
        frames = list(traceback.walk_stack(sys._getframe(1)))[::-1] if frames is None else frames
        for frame, _ in reversed(frames):
            module = frame.f_locals.get("self")
            if isinstance(module, nnx.Module) and id(module) in self._paths:
                return self._paths[id(module)]
        return ""
