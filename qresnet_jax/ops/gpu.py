"""The binary convolution's three products in float16: on GPUs, half the memory of float32 and twice its speed.

Levels and signs are float16 numbers; sums are taken in float32 and returned in float16. Gradients are rounded to float16's
11 bits, as many as TF32 has, in which GPUs since Ampere multiply float32 by default. `halve` scales them into its range,
which is smaller: as in any training in float16, numbers far below their layer's root mean square are lost.
"""

import jax
import jax.numpy as jnp

from qresnet_jax.ops import plain

MAX_INTEGER = 2**11  # float16 holds all integers up to here


def integer_conv(levels: jax.Array, signs: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """`plain_conv(levels, signs, strides)`, float32; exact up to sums of `MAX_INTEGER`."""
    levels, signs = levels.astype(jnp.float16), signs.astype(jnp.float16)
    return plain.plain_conv(levels, signs, strides, out_dtype=jnp.float16).astype(jnp.float32)


def input_gradient(
    g: jax.Array, signs: jax.Array, strides: tuple[int, int], shape: tuple[int, ...], bound: float
) -> jax.Array:
    """`plain.input_gradient(g, signs, strides, shape)` of float32 `g`; `bound` from `gradient_bound`."""
    half, unit = halve(g, bound)
    return plain.input_gradient(half, signs.astype(jnp.float16), strides, shape).astype(jnp.float32) * unit


def kernel_gradient(
    g: jax.Array, levels: jax.Array, strides: tuple[int, int], shape: tuple[int, ...], bound: float
) -> jax.Array:
    """`plain.kernel_gradient(g, levels, strides, shape)` of float32 `g`; `bound` from `gradient_bound`."""
    half, unit = halve(g, bound)
    return plain.kernel_gradient(half, levels.astype(jnp.float16), strides, shape).astype(jnp.float32) * unit


def may_round() -> bool:
    """Whether `jax_default_matmul_precision` lets float32 be multiplied in TF32."""
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # JAX adds its options at run time
    return precision in (None, "default", "bfloat16", "tensorfloat32", "high")


def gradient_bound(out_shape: tuple[int, ...], kernel_shape: tuple[int, ...], max_level: int) -> float | None:
    """A b such that, by Cauchy and Schwarz, no sum in either gradient of a g exceeds `b * |g|_2`.

    Those for the input have at most `kh * kw * out` terms, each +g or -g; those for the kernel at most `N * H' * W'`,
    each g times a level.

    Args:
      out_shape: `(N, H', W', out)`, of g.
      kernel_shape: `(kh, kw, C, out)`.
      max_level: the largest level.

    Returns:
      The bound; None where float16 has no room for it: where levels are too large, or g scaled by it too small, with
      its root mean square less than 2**4 times the least number that has all 11 bits.
    """
    images, height, width, out = out_shape
    positions, taps = images * height * width, kernel_shape[0] * kernel_shape[1]
    bound = max((taps * out) ** 0.5, max_level * positions**0.5)
    return bound if max_level <= MAX_INTEGER and bound * (positions * out) ** 0.5 <= 2**24 else None


def halve(g: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """`(half, unit)` with `g = half * unit`: float16, and a float32 power of two, such that `|half|_2 * bound <= 2**15`.

    So no sum leaves float16's range. The root mean square of `half` is at least 2**-10, if that of g is at least 3e-17.
    Numbers down to 2**-4 of it keep 11 bits, smaller ones fewer; below 2**-15 of it they are 0.
    """
    _, exponent = jnp.frexp(jnp.sqrt(jnp.sum(g * g)) * bound)
    # Not smaller: where squares vanish in float32, |g| seems smaller than it is.
    unit = jnp.ldexp(jnp.float32(1), jnp.clip(exponent - 15, -45, 120))
    return (g * (1 / unit)).astype(jnp.float16), unit
