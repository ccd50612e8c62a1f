"""Batch norm."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax.nn.variables import NormParam
from qresnet_jax.ops.batch_norm import normalize_batch


class BatchNorm(nnx.BatchNorm):
    """Batch norm over all axes but the last, with statistics in float32 (Ioffe and Szegedy 2015).

    Args:
      num_features: size of the last axis.
      momentum: how much of the running statistics each batch leaves.
      epsilon: added to the variance.
      dtype: of the result.
      rngs: as Flax's layers take it; there is nothing random here.
    """

    scale: NormParam
    bias: NormParam

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(num_features, momentum=momentum, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.scale = NormParam(self.scale[...])
        self.bias = NormParam(self.bias[...])

    def __call__(self, x: jax.Array) -> jax.Array:  # type: ignore[override]  # its mode alone says how to normalise
        """Normalises `[N, H, W, C]`; in training mode by the batch, whose statistics enter the running ones."""
        if self.use_running_average:
            return super().__call__(x)
        y, mean, var = normalize_batch(x, self.scale[...], self.bias[...], self.epsilon, self.axis_name)
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var
        return y.astype(self.dtype)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """`(multiplier, offset)`, float32 `[C]`, of evaluation mode: `x * multiplier + offset`."""
        multiplier = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.epsilon)
        return multiplier, self.bias[...] - self.mean[...] * multiplier
