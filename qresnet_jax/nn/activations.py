"""Activation quantizers as modules."""

import jax
import jax.numpy as jnp
from flax import nnx

from qresnet_jax.models.architecture import max_level
from qresnet_jax.nn.variables import ClippingLevel, Temperature
from qresnet_jax.quantize import activations
from qresnet_jax.quantize.straight_through import straight_through


class _Quantizer(nnx.Module):
    """An activation quantizer: `__call__` gives multiples of `step`, `max_level * step` at the most."""

    def __init__(self, bits: int):
        activations.check_bits(bits)
        self.bits = bits

    @property
    def max_level(self) -> int:
        """The largest integer level."""
        return max_level("uniform", self.bits)

    @property
    def step(self) -> jax.Array | None:
        """The distance of neighbouring levels, float32 scalar; None for a float activation."""
        return jnp.float32(1)


class _Clipped(_Quantizer):
    """A quantizer with a trainable clipping level, initialised to `n = 2**bits - 1`."""

    def __init__(self, bits: int):
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


class PACT(_Clipped):
    """Parameterised clipping activation: `pact(x, alpha, bits)` with one trainable alpha (Choi et al. 2018).

    Args:
      bits: 1 to 8.

    Example:
      >>> import jax.numpy as jnp
      >>> PACT(2)(jnp.array([-1.0, 0.4, 1.6, 9.0])).tolist()
      [0.0, 0.0, 2.0, 3.0]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.pact(x, self.clipping_level, self.bits)


class LSQ(_Clipped):
    """Uniform levels whose clipping level is trained as a learned step size (Esser et al. 2020)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.lsq(x, self.clipping_level, self.bits)


class PowerOfTwo(_Clipped):
    """Levels 0 and alpha times powers of two; bits 1 to 4."""

    def __init__(self, bits: int):
        if bits > 4:
            raise ValueError(
                f"power_of_two activations have 1 to 4 bits, got {bits}: 2**(2**bits - 2) must stay exact"
            )
        super().__init__(bits)

    @property
    def max_level(self) -> int:
        return max_level("power_of_two", self.bits)

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.power_of_two(x, self.clipping_level, self.bits)


class Fixed(_Quantizer):
    """Rounds to the integers 0 .. n: what the original script trains with."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return activations.fixed(x, self.bits)


class Sigmoid(_Quantizer):
    """Like `Fixed`, with the gradient of a staircase of sigmoids whose temperature training raises."""

    def __init__(self, bits: int, temperature: float = 1.0):
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


ACTIVATIONS = {"pact": PACT, "fixed": Fixed, "lsq": LSQ, "sigmoid": Sigmoid, "power_of_two": PowerOfTwo}


def activation(name: str, bits: int) -> nnx.Module:
    """The quantizer `name` (a key of `ACTIVATIONS`, or "none") with `bits` (1 to 8; 32 means float).

    Raises:
      ValueError: unknown name; impossible bits.
    """
    if name == "none" or bits == 32:
        return FloatActivation()
    if name not in ACTIVATIONS:
        raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}, none; got {name!r}")
    if not 1 <= bits <= 8:
        raise ValueError(f"model.act_bits must be 1 to 8, or 32 for float; got {bits}")
    return ACTIVATIONS[name](bits)
