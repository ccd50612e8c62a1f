"""The classifier."""

import jax
import jax.numpy as jnp
from flax import nnx

from qresnet_jax.quantize import fixed_point
from qresnet_jax.quantize.straight_through import straight_through


class Classifier(nnx.Linear):
    """The last layer; integer where `fraction_bits` is set.

    Its inputs are then on the residual stream's grid, its weights are rounded to as many bits (at most 11) as keep
    every sum below 2**31, its bias to the unit of the sums; the gradient passes straight through. One scale for the
    whole layer, so that the integers compare like logits.

    Args:
      in_features: input features.
      out_features: number of classes.
      fraction_bits: of the residual stream's grid; None for a float layer.
      rngs: gives the `params` key.

    Examples:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> Classifier(64, 10, rngs=nnx.Rngs(0))(jnp.ones((1, 64))).shape
      (1, 10)
    """

    bias: nnx.Param[jax.Array]

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        fraction_bits: int | None = fixed_point.FRACTION_BITS,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(in_features, out_features, rngs=rngs)
        self.fraction_bits = fraction_bits
        self.weight_bits = min(11, 32 - 15 - (in_features - 1).bit_length())

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # takes no sharding
        """Logits, float32 `[N, out]`, of `[N, in]`."""
        logits = super().__call__(x.astype(jnp.float32))
        if self.fraction_bits is None:
            return logits
        kernel, bias, unit = self.integer_weights()
        pixels = (x * 2.0**self.fraction_bits).astype(jnp.int32)
        acc = jnp.matmul(pixels, kernel, preferred_element_type=jnp.int32) + bias
        return straight_through(acc.astype(jnp.float32) * unit, logits)

    def integer_weights(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`(kernel int32 [in, out], bias int32 [out], unit float32 [])`: logits are `unit * (x_int @ kernel + bias)`."""
        assert self.fraction_bits is not None  # a float layer has no integers
        kernel, bias = self.kernel[...], self.bias[...]
        largest = 2.0 ** (self.weight_bits - 1) - 1
        factor = jnp.maximum(jnp.max(jnp.abs(kernel)), 1e-12) / largest
        unit = factor * 2.0**-self.fraction_bits
        # What the largest sum leaves of int32; at most 1 % less than that, for float32's rounding.
        room = 0.99 * (2.0**31 - self.in_features * fixed_point.STREAM_MAX * largest)
        bias = jnp.clip(jnp.round(bias / unit), -room, room)
        return jnp.round(kernel / factor).astype(jnp.int32), bias.astype(jnp.int32), unit
