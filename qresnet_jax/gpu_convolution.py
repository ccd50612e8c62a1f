"""The binary convolution's three products in float16: on GPUs, half the memory of float32 and twice its speed.

Levels and signs are float16 numbers; sums are taken in float32 and returned in float16. Gradients are rounded to float16's
11 bits, no more coarsely than in TF32, in which GPUs multiply float32 unless asked not to; `halve` keeps them in range.
"""

import jax
import jax.numpy as jnp

from qresnet_jax import plain_convolution as plain

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
    """Whether products of float32 may be rounded so: not if `jax_default_matmul_precision` asks for more than TF32."""
    return jax.config.jax_default_matmul_precision in (None, "default", "fastest", "tensorfloat32")


def gradient_bound(out_shape: tuple[int, ...], kernel_shape: tuple[int, ...], max_level: int) -> float:
    """The least b such that, by Cauchy and Schwarz, no sum in either gradient of a g exceeds `b * |g|_2`.

    Those for the input have `kh * kw * out` terms, each +g or -g; those for the kernel `N * H' * W'`, each g times a
    level.

    Args:
      out_shape: `(N, H', W', out)`, of g.
      kernel_shape: `(kh, kw, C, out)`.
      max_level: the largest level.
    """
    images, height, width, out = out_shape
    taps = kernel_shape[0] * kernel_shape[1]
    return max((taps * out) ** 0.5, max_level * (images * height * width) ** 0.5)


def halve(g: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """`(half, unit)` with `g = half * unit`: float16, and a float32 power of two, such that `|half|_2 * bound <= 2**15`.

    So no sum leaves the range. Of a g of 2**21 numbers and the bound of so many, those within 2**-8 of the root mean
    square keep all 11 bits, and those below 2**-18 of it, which no sum would notice, are lost. A g whose squares leave
    float32, below about 1e-19 or above 1e17, becomes 0 or infinite.
    """
    _, exponent = jnp.frexp(jnp.sqrt(jnp.sum(g * g)) * bound)
    unit = jnp.ldexp(jnp.float32(1), jnp.clip(exponent - 15, -120, 120))
    return (g * (1 / unit)).astype(jnp.float16), unit
