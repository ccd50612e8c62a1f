"""Activation quantizers as modules. To add one, see `qresnet_jax.quantize.registry`."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qresnet_jax.nn.variables import ClippingLevel, Temperature
from qresnet_jax.quantize import activations, registry
from qresnet_jax.quantize.straight_through import straight_through


class Quantizer(nnx.Module):
    """The base of all activation quantizers: rounds to integer `levels` times one `step`.

    A subclass implements `__call__`. Where its levels are not evenly spaced, or its ties are not rounded to even, it
    overrides `level_index` too.

    Args:
      bits: the number of levels is `2**bits`.

    Raises:
      ValueError: `bits` that this quantizer cannot have.
      TypeError: the class, or one it derives from, has no line in `qresnet_jax.quantize.registry.QUANTIZERS`.
    """

    def __init__(self, bits: int) -> None:
        most = self.info().most_bits
        if not 1 <= bits <= most:
            raise ValueError(f"{type(self).__name__} has 1 to {most} bits, got {bits}")
        self.bits = bits

    @classmethod
    def info(cls) -> registry.QuantizerInfo:
        """Returns the class's line in the registry, or that of the class it derives from."""
        for base in cls.__mro__:
            if info := registry.info_of_layer(base.__name__):
                return info
        raise TypeError(
            f"the quantizer {cls.__name__} is not registered: add a line for it to "
            "qresnet_jax.quantize.registry.QUANTIZERS"
        )

    @property
    def levels(self) -> Sequence[int]:
        """The `2**bits` integer levels, ascending from 0."""
        return self.info().levels(self.bits)

    @property
    def max_level(self) -> int:
        """The largest integer level."""
        return self.levels[-1]

    @property
    def is_uniform(self) -> bool:
        """Whether the levels are evenly spaced."""
        return list(self.levels) == list(range(len(self.levels)))

    @property
    def clipping_level(self) -> jax.Array:
        """The activation above which everything is rounded to the largest level, float32 scalar."""
        return jnp.float32(self.max_level)

    @property
    def step(self) -> jax.Array:
        """The activation that one integer unit stands for, float32 scalar."""
        return jnp.float32(1)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x` rounded to multiples of `step`, of the same shape and dtype."""
        raise NotImplementedError

    def level_index(self, x: np.ndarray) -> np.ndarray:
        """Returns which of `levels` each x is rounded to: the trained formula in float64, by which `fold` sets thresholds.

        Args:
          x: activations, float64, any shape.

        Returns:
          integers 0 .. `2**bits - 1`, like `x`, and never falling where x rises.
        """
        n, alpha = self.max_level, float(self.clipping_level)
        return np.rint(np.clip(x, 0, alpha) * (n / alpha)).astype(np.int64)


class ClippedQuantizer(Quantizer):
    """A quantizer with a trainable clipping level, initialised to `n = 2**bits - 1`."""

    def __init__(self, bits: int) -> None:
        super().__init__(bits)
        self.alpha = ClippingLevel(jnp.float32(2**bits - 1))

    @property
    def clipping_level(self) -> jax.Array:
        # The optimizer keeps alpha above the minimum; this holds for any other optimizer too, and lets alpha return.
        alpha = self.alpha[...]
        return straight_through(jnp.maximum(alpha, activations.MIN_CLIPPING_LEVEL), alpha)

    @property
    def step(self) -> jax.Array:
        return jax.lax.stop_gradient(self.clipping_level) / self.max_level


class PACT(ClippedQuantizer):
    """Parameterised clipping activation: `pact(x, alpha, bits)` with one trainable alpha (Choi et al. 2018).

    Args:
      bits: 1 to 8.

    Examples:
      >>> import jax.numpy as jnp
      >>> PACT(2)(jnp.array([-1.0, 0.4, 1.6, 9.0])).tolist()
      [0.0, 0.0, 2.0, 3.0]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.pact(x, self.clipping_level, self.bits)


class LSQ(ClippedQuantizer):
    """Uniform levels whose clipping level is trained as a learned step size (Esser et al. 2020); bits 1 to 8."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.lsq(x, self.clipping_level, self.bits)


class PowerOfTwo(ClippedQuantizer):
    """Levels 0 and alpha times powers of two (Miyashita et al. 2016); bits 1 to 4."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.power_of_two(x, self.clipping_level, self.bits)

    def level_index(self, x: np.ndarray) -> np.ndarray:
        alpha, levels = float(self.clipping_level), np.array(self.levels)
        edges = (levels[:-1] + levels[1:]) / 2  # of which x must pass more than the edge itself
        return np.searchsorted(edges, np.clip(x, 0, alpha) / (alpha / self.max_level), side="left")


class Fixed(Quantizer):
    """Rounds to the integers 0 .. n, as the original script does in training; bits 1 to 8."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.fixed(x, self.bits)


class Sigmoid(Quantizer):
    """Like `Fixed`, with the gradient of a staircase of sigmoids whose temperature training raises; bits 1 to 8."""

    def __init__(self, bits: int, temperature: float = 1.0) -> None:
        super().__init__(bits)
        self.temperature = Temperature(jnp.float32(temperature))

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.sigmoid(x, self.temperature[...], self.bits)


class FloatActivation(nnx.Module):
    """No quantizer: the identity, without a step."""

    max_level = None
    step = None

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


def activation(name: str, bits: int) -> Quantizer | FloatActivation:
    """Returns a new quantizer.

    Args:
      name: a key of `qresnet_jax.quantize.registry.QUANTIZERS`, or "none" for float activations.
      bits: 1 to as many as the quantizer can have (8, powers of two 4); 32 means float.

    Raises:
      ValueError: unknown name; impossible bits. The message names the config's field.
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
