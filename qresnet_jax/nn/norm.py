"""Batch norm."""

import jax
import jax.numpy as jnp
from flax import nnx

from qresnet_jax.nn.variables import NormParam
from qresnet_jax.ops.batch_norm import normalize_batch


class BatchNorm(nnx.BatchNorm):
    """Batch norm with momentum 0.9 and epsilon 1e-5, statistics in float32 (Ioffe and Szegedy 2015)."""

    def __init__(self, num_features: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(num_features, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.scale = NormParam(self.scale[...])
        self.bias = NormParam(self.bias[...])

    def __call__(self, x: jax.Array) -> jax.Array:
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
