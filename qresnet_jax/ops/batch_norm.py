"""Batch norm in training mode as a pure function with its own gradient (Ioffe and Szegedy 2015).

The gradient is written out for two reasons. Each direction reads the activations only twice, once for two
sums and once for the result. And the two sums end as one array: on a GPU, more than half of the kernels of a
training step compute only a few numbers, so fewer of them are better.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from qresnet_jax.ops.collectives import mean_over

STATISTICS = "statistics"  # their name, by which a policy chooses what the gradient keeps


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def normalize_batch(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Normalises `x` with the batch's mean and variance per channel.

    The result is `y = (x - mean) * gamma / sqrt(variance + epsilon) + beta`. As in Flax, the variance is the
    mean square less the squared mean, computed in float32 and not below 0.

    Args:
      x: float `[N, ..., C]`.
      gamma, beta: float32 `[C]`.
      epsilon: what is added to the variance.
      axis_name: the name of a mapped axis over which the statistics are averaged too, or None.

    Returns:
      `(y, mean, variance)`: `y` is float32 of the shape of `x`, the statistics are float32 `[C]`. No gradient
      flows through the statistics.
    """
    return _forward(x, gamma, beta, epsilon, axis_name)[0]


def _forward(
    x: jax.Array, gamma: jax.Array, beta: jax.Array, epsilon: float, axis_name: str | None
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], tuple[jax.Array, jax.Array, jax.Array, jax.Array]]:
    x32 = x.astype(jnp.float32)
    mean, square = checkpoint_name(_pmean(_sums(x32, x32 * x32) / _count(x), axis_name), STATISTICS)
    variance = jnp.maximum(square - mean * mean, 0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    y = (x32 - mean) * (inverse * gamma) + beta
    return (y, mean, variance), (x, gamma, mean, inverse)


def _backward(
    epsilon: float,
    axis_name: str | None,
    residuals: tuple[jax.Array, jax.Array, jax.Array, jax.Array],
    cotangents: tuple[jax.Array, jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, gamma, mean, inverse = residuals
    g, centered = cotangents[0], x.astype(jnp.float32) - mean
    sums = _sums(g, g * centered)
    dbeta, product = sums
    # The statistics follow two changes of x, whose gradient is 0: a shift, and a stretch along the normalised x.
    # So g loses its mean and its share along the normalised x.
    mean_g, mean_product = _pmean(sums / _count(x), axis_name)
    dx = (gamma * inverse) * (g - mean_g - centered * (mean_product * inverse * inverse))
    return dx.astype(x.dtype), product * inverse, dbeta


normalize_batch.defvjp(_forward, _backward)


def _count(x: jax.Array) -> int:
    return x.size // x.shape[-1]


def _sums(*values: jax.Array) -> jax.Array:
    """Returns the sums per channel of arrays `[N, ..., C]`, as `[values, C]`. It sums each image, then the images."""
    per_image = jnp.stack([v.reshape(v.shape[0], -1, v.shape[-1]).sum(1) for v in values])
    return per_image.sum(1)


def _pmean(x: jax.Array, axis_name: str | None) -> jax.Array:
    return x if axis_name is None else mean_over(x, axis_name)
