"""What layers hand each other: an array, and what is known of the numbers in it.

    Levels    activations that a quantizer has rounded: integers times one step
    Sums      what a convolution sums: integers times one unit for each channel, perhaps normalised or rectified
    Stream    values on the grid of the residual stream

A carrier is a pytree, so it passes through `jit`, `grad` and `remat`. Given to a function of `jax.numpy`, or with any
operator or method of an array, it is its float array. Networks with float weights or activations hand each other plain arrays instead.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class _Carrier:
    """The base of all carriers.

    Args:
      value: the numbers themselves, float.
    """

    value: jax.Array

    def __jax_array__(self) -> jax.Array:
        return self.value

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value, dtype, copy=copy)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "value":
            raise AttributeError(name)
        return getattr(self.value, name)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return self.value.shape

    @property
    def ndim(self) -> int:
        """The number of axes of the array."""
        return self.value.ndim

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the array."""
        return self.value.dtype


def _of_array(operator: str) -> Callable[..., Any]:
    def apply(self: _Carrier, *operands: Any) -> Any:
        return getattr(self.value, operator)(*map(array_of, operands))

    return apply


_BINARY = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
for _name in (
    *_BINARY,
    *(f"r{name}" for name in _BINARY),
    *("neg", "abs", "getitem", "lt", "le", "gt", "ge", "eq", "ne", "float", "len", "iter"),
):
    setattr(_Carrier, f"__{_name}__", _of_array(f"__{_name}__"))


class _Summand(_Carrier):
    """The base of carriers whose sum is on the grid of the residual stream."""

    def __add__(self, other: object) -> Any:
        from qresnet_jax.nn.functions import add

        return add(self, other)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Levels(_Summand):
    """Activations that a quantizer has rounded, `q * step` with integers q from 0 to `max_level`.

    Args:
      value: the activations, float, any shape.
      step: the distance of neighbouring integers, float32 scalar.
      max_level: the largest integer.
    """

    step: jax.Array
    max_level: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sums(_Summand):
    """The result of a convolution with integers, or what batch norm and ReLU made of it.

    Args:
      value: the sums, float32 `[N, H, W, C]`.
      bound: the largest possible magnitude of the integer sums.
    """

    bound: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Stream(_Summand):
    """The residual stream: int16 integers times `2**-fraction_bits`. `+` saturates.

    Args:
      value: the values, float32 `[N, H, W, C]`.
      fraction_bits: fraction bits of the grid.
    """

    fraction_bits: int = dataclasses.field(metadata={"static": True})


def array_of(x: Any) -> jax.Array:
    """Returns the array of a carrier, or an array as it is."""
    return x.value if isinstance(x, _Carrier) else x


def with_value(x: Any, value: jax.Array) -> Any:
    """Returns a carrier of the same kind as `x` with another array, or the array itself if `x` is one."""
    return dataclasses.replace(x, value=value) if isinstance(x, _Carrier) else value
