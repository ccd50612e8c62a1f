"""The last layer of a network, from features to logits."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qresnet_jax.nn.carriers import Levels, Sums, array_of
from qresnet_jax.nn.functions import to_stream
from qresnet_jax.nn.recording import recorded
from qresnet_jax.ops.convolution import integers_of
from qresnet_jax.quantize import exact, fixed_point
from qresnet_jax.quantize.straight_through import straight_through


class Classifier(nnx.Linear):
    """A linear layer that gives the logits. It computes in integers if `fraction_bits` is set.

    Its inputs are then levels, or on the residual stream's grid. Its weights are rounded to integers of at most 11 bits, with
    one unit for the whole layer, so that the largest integer is the largest logit. The unit is larger where the sums
    of a class would otherwise not fit int32. The bias is rounded to the unit of the sums. The gradients pass straight
    through.

    Args:
      in_features: number of input features.
      out_features: number of classes.
      fraction_bits: fraction bits of the residual stream's grid, or None for a float layer.
      rngs: source of the `params` key.

    Raises:
      ValueError: if there are more than 65,536 input features in integers.

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
        if fraction_bits is not None and in_features > exact.MOST_FEATURES:
            raise ValueError(
                f"Classifier takes at most {exact.MOST_FEATURES:,} features in integers, got {in_features:,}: pool "
                "them, or make a float layer with fraction_bits=None"
            )
        super().__init__(in_features, out_features, rngs=rngs)
        self.fraction_bits = fraction_bits

    @recorded
    def __call__(self, x: Any) -> jax.Array:  # type: ignore[override]  # takes no sharding
        """Computes logits.

        Args:
          x: features `[N, in_features]`: a `Stream` or `Levels` if the layer is in integers, or an array on the stream's
            grid. Sums are rounded to the grid first.

        Returns:
          float32 `[N, out_features]`.
        """
        if isinstance(x, Sums) and self.fraction_bits is not None:
            x = to_stream(x, self.fraction_bits)
        values = array_of(x)
        logits = super().__call__(values.astype(jnp.float32))
        if self.fraction_bits is None:
            return logits
        if isinstance(x, Levels):
            integers, step = integers_of(values, x.step), x.step
        else:
            integers, step = values * 2.0**self.fraction_bits, jnp.float32(2.0**-self.fraction_bits)
        kernel, bias, unit = self.integer_weights(step)
        acc = jnp.matmul(integers.astype(jnp.int32), kernel, preferred_element_type=jnp.int32) + bias
        return straight_through(acc.astype(jnp.float32) * unit, logits)

    def integer_weights(
        self, step: float | jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns the integers that the layer computes with: logits are `unit * (x_int @ kernel + bias)`.

        Args:
          step: what one unit of the features is worth; None for that of the stream.

        Returns:
          `(kernel, bias, unit)`: int32 `[in, out]`, int32 `[out]` and a float32 scalar.
        """
        assert self.fraction_bits is not None  # a float layer has no integers
        factor = fixed_point.classifier_unit(self.kernel[...])
        unit = factor * (2.0**-self.fraction_bits if step is None else step)
        kernel = jnp.round(self.kernel[...] / factor)
        room = fixed_point.bias_room(kernel)
        bias = jnp.clip(jnp.round(self.bias[...] / unit), -room, room)
        return kernel.astype(jnp.int32), bias.astype(jnp.int32), unit
