"""Activation quantizers as Flax NNX modules. `qresnet_jax.quantize.registry` says how to add one."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qresnet_jax.nn.carriers import Levels, array_of
from qresnet_jax.nn.functions import relu
from qresnet_jax.nn.recording import recorded
from qresnet_jax.nn.variables import ClippingLevel, Temperature
from qresnet_jax.quantize import activations, registry
from qresnet_jax.quantize.straight_through import straight_through


def _on_carriers(formula: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the `__call__` of a quantizer, from its formula on arrays."""

    @recorded
    @functools.wraps(formula)
    def call(self: "Quantizer", x: Any) -> Levels:
        return Levels(array_of(formula(self, array_of(x))), self.step, self.max_level)

    return call


class Quantizer(nnx.Module):
    """The base class of all activation quantizers, which round to integer `levels` times one `step`.

    A subclass implements `__call__`. If its levels are not evenly spaced, or if it does not round ties to
    even, it overrides `level_index` too.

    Args:
      bits: number of bits, 1 to as many as the quantizer can have (8 or fewer). It has `2**bits` levels.

    Raises:
      ValueError: if this quantizer cannot have so many bits.
      TypeError: if neither the class nor one of its bases is listed in
        `qresnet_jax.quantize.registry.QUANTIZERS`.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__call__" in cls.__dict__:  # the formula, on arrays
            setattr(cls, "__call__", _on_carriers(cls.__call__))  # noqa: B010

    def __init__(self, bits: int) -> None:
        most = self.info().most_bits
        if not 1 <= bits <= most:
            raise ValueError(f"{type(self).__name__} has 1 to {most} bits, got {bits}")
        self.bits = bits

    @classmethod
    def info(cls) -> registry.QuantizerInfo:
        """Returns what the registry has for this class, or else for the nearest of its bases.

        Raises:
          TypeError: if neither the class nor one of its bases is registered.
        """
        for base in cls.__mro__:
            if info := registry.info_of_layer(base.__name__):
                return info
        raise TypeError(
            f"the quantizer {cls.__name__} is not registered: add a line for it to "
            "qresnet_jax.quantize.registry.QUANTIZERS"
        )

    @property
    def levels(self) -> Sequence[int]:
        """Returns the `2**bits` integer levels, ascending from 0."""
        return self.info().levels(self.bits)

    @property
    def max_level(self) -> int:
        """Returns the largest integer level."""
        return self.levels[-1]

    @property
    def is_uniform(self) -> bool:
        """Returns whether the levels are evenly spaced."""
        return list(self.levels) == list(range(len(self.levels)))

    @property
    def clipping_level(self) -> jax.Array:
        """Returns the activation from which on everything is rounded to the largest level, a float32 scalar."""
        return jnp.float32(self.max_level)

    @property
    def step(self) -> jax.Array:
        """Returns the activation that one integer unit stands for, a float32 scalar."""
        return jnp.float32(1)

    def __call__(self, x: Any) -> Any:
        """Rounds activations to levels times `step`.

        A subclass defines it as a function of arrays; sums and streams are given to it as their arrays, and what it
        returns becomes `Levels`.

        Args:
          x: activations, float, any shape.

        Returns:
          `Levels` of the shape and dtype of `x`.
        """
        raise NotImplementedError

    def level_index(self, x: np.ndarray) -> np.ndarray:
        """Returns the index in `levels` of the level that each activation is rounded to.

        This is the trained formula in float64, from which `fold` finds the thresholds. The index must never
        fall where x rises.

        Args:
          x: activations, float64, any shape.

        Returns:
          Integers 0 to `2**bits - 1`, of the shape of `x`.
        """
        n, alpha = self.max_level, float(self.clipping_level)
        return np.rint(np.clip(x, 0, alpha) * (n / alpha)).astype(np.int64)


class ClippedQuantizer(Quantizer):
    """A quantizer with a trainable clipping level, which starts at `2**bits - 1`."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.alpha = ClippingLevel(jnp.float32(2**bits - 1))

    @property
    def clipping_level(self) -> jax.Array:
        # Our optimizer keeps alpha above the minimum. This does so with any optimizer, and alpha can grow again.
        alpha = self.alpha[...]
        if isinstance(
            alpha, np.ndarray
        ):  # in a network that lies on the host, where `fold` asks hundreds of times
            return np.maximum(alpha, np.float32(activations.MIN_CLIPPING_LEVEL))
        return straight_through(jnp.maximum(alpha, activations.MIN_CLIPPING_LEVEL), alpha)

    @property
    def step(self) -> jax.Array:
        return jax.lax.stop_gradient(self.clipping_level) / self.max_level


class PACT(ClippedQuantizer):
    """The quantizer PACT: `pact(x, alpha, bits)` with one trainable clipping level alpha (Choi et al. 2018).

    Args:
      bits: number of bits, 1 to 8.

    Raises:
      ValueError: if `bits` is not 1 to 8.

    Examples:
      >>> import jax.numpy as jnp
      >>> PACT(2)(jnp.array([-1.0, 0.4, 1.6, 9.0])).tolist()
      [0.0, 0.0, 2.0, 3.0]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.pact(x, self.clipping_level, self.bits)


class LSQ(ClippedQuantizer):
    """A quantizer whose clipping level is trained as a learned step size, see `quantize.activations.lsq`.

    Args:
      bits: number of bits, 1 to 8.

    Raises:
      ValueError: if `bits` is not 1 to 8.

    See Esser et al. 2020 (LSQ).
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.lsq(x, self.clipping_level, self.bits)


class PowerOfTwo(ClippedQuantizer):
    """A quantizer whose levels are 0 and alpha times powers of two, see `quantize.activations.power_of_two`.

    Args:
      bits: number of bits, 1 to 4.

    Raises:
      ValueError: if `bits` is not 1 to 4.

    See Miyashita et al. 2016.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.power_of_two(x, self.clipping_level, self.bits)

    def level_index(self, x: np.ndarray) -> np.ndarray:
        alpha, levels = float(self.clipping_level), np.array(self.levels)
        edges = (levels[:-1] + levels[1:]) / 2  # an x at an edge is rounded down
        return np.searchsorted(edges, np.clip(x, 0, alpha) / (alpha / self.max_level), side="left")


class Fixed(Quantizer):
    """A quantizer that rounds to the integers 0 to `2**bits - 1`, as the original script (docs/training.md) does.

    Args:
      bits: number of bits, 1 to 8.

    Raises:
      ValueError: if `bits` is not 1 to 8.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.fixed(x, self.bits)


class Sigmoid(Quantizer):
    """A quantizer like `Fixed`, but with the gradient of a staircase of sigmoids that grow sharper during training.

    Args:
      bits: number of bits, 1 to 8.
      temperature: sharpness of the sigmoids at the start, > 0; the training step raises it.

    Raises:
      ValueError: if `bits` is not 1 to 8.

    See Yang et al. 2019 (Quantization Networks).
    """

    def __init__(self, bits: int, temperature: float = 1.0) -> None:
        super().__init__(bits)
        self.temperature = Temperature(jnp.float32(temperature))

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.sigmoid(x, self.temperature[...], self.bits)


class FloatActivation(nnx.Module):
    """A ReLU, which stands where a network has no quantizer: those have no negative levels. It has no step."""

    max_level = None
    step = None

    @recorded
    def __call__(self, x: Any) -> Any:
        """Returns `relu(x)`."""
        return relu(x)


def activation(name: str, bits: int) -> Quantizer | FloatActivation:
    """Builds a quantizer by its name in the config.

    Args:
      name: a key of `qresnet_jax.quantize.registry.QUANTIZERS`, or "none" for float activations.
      bits: number of bits, 1 to 8 (1 to 4 for "power_of_two"), or 32 for float activations.

    Returns:
      A new quantizer, or a `FloatActivation`.

    Raises:
      ValueError: if the name is unknown, or if the quantizer cannot have so many bits. The message names the
        config's field.
    """
    if name not in registry.names():
        raise ValueError(f"model.activation must be one of {', '.join(registry.names())}; got {name!r}")
    if name == registry.NO_QUANTIZER or bits == 32:
        return FloatActivation()
    info = registry.QUANTIZERS[name]
    if not 1 <= bits <= info.most_bits:
        raise ValueError(
            f"model.act_bits must be 1 to {info.most_bits} with {name} activations, or 32 for float; got {bits}"
        )
    quantizer: type[Quantizer] = globals()[info.layer]
    return quantizer(bits)
