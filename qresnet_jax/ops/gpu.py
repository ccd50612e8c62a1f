"""The binary convolution's three products in float16: on GPUs it takes half the memory and half the time of float32.

Levels and signs are exact in float16. Sums are taken in float32 and returned in float16. Gradients are
rounded to the 11 bits of float16. TF32, in which GPUs since Ampere multiply float32 by default, has as many
bits, but a wider range. `halve` therefore scales gradients into the range of float16. As in any training in
float16, numbers far below the root mean square of their layer are lost.
"""

import jax
import jax.numpy as jnp

from qresnet_jax.ops import plain

MAX_INTEGER = 2**11  # float16 holds all integers up to this one


def integer_conv(levels: jax.Array, signs: jax.Array, strides: tuple[int, int]) -> jax.Array:
    """Computes `plain_conv(levels, signs, strides)` in float32, which is exact for sums up to `MAX_INTEGER`."""
    levels, signs = levels.astype(jnp.float16), signs.astype(jnp.float16)
    return plain.plain_conv(levels, signs, strides, out_dtype=jnp.float16).astype(jnp.float32)


def input_gradient(
    g: jax.Array, signs: jax.Array, strides: tuple[int, int], shape: tuple[int, ...], bound: float
) -> jax.Array:
    """Computes `plain.input_gradient(g, signs, strides, shape)` of float32 `g`, with a `bound` from `gradient_bound`."""
    half, unit = halve(g, bound)
    return plain.input_gradient(half, signs.astype(jnp.float16), strides, shape).astype(jnp.float32) * unit


def kernel_gradient(
    g: jax.Array, levels: jax.Array, strides: tuple[int, int], shape: tuple[int, ...], bound: float
) -> jax.Array:
    """Computes `plain.kernel_gradient(g, levels, strides, shape)` of float32 `g`, with a `bound` from `gradient_bound`."""
    half, unit = halve(g, bound)
    return plain.kernel_gradient(half, levels.astype(jnp.float16), strides, shape).astype(jnp.float32) * unit


def may_round() -> bool:
    """Returns whether `jax_default_matmul_precision` allows JAX to multiply float32 in TF32."""
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]  # JAX adds its options at run time
    return precision in (None, "default", "bfloat16", "tensorfloat32", "high")


def gradient_bound(out_shape: tuple[int, ...], kernel_shape: tuple[int, ...], max_level: int) -> float | None:
    """Returns a number b such that no sum in either gradient exceeds `b * |g|_2`, where g is the output's gradient.

    The bound follows from the inequality of Cauchy and Schwarz. The sums of the input's gradient have at most
    `kh * kw * out` terms, each +g or -g. Those of the kernel's gradient have at most `N * H' * W'` terms,
    each g times a level.

    Args:
      out_shape: shape of g, `(N, H', W', out)`.
      kernel_shape: shape of the kernel, `(kh, kw, C, out)`.
      max_level: the largest level.

    Returns:
      The bound, or None if float16 has no room for it. That is so if the levels are too large, or if scaling
      by the bound would make g too small: its root mean square would be less than 2**4 times the least number
      that has all 11 bits.
    """
    images, height, width, out = out_shape
    positions, taps = images * height * width, kernel_shape[0] * kernel_shape[1]
    bound = max((taps * out) ** 0.5, max_level * positions**0.5)
    return bound if max_level <= MAX_INTEGER and bound * (positions * out) ** 0.5 <= 2**24 else None


def halve(g: jax.Array, bound: float) -> tuple[jax.Array, jax.Array]:
    """Scales a gradient into the range of float16: `g = half * unit` with `|half|_2 * bound <= 2**15`.

    So no sum leaves the range of float16. The root mean square of `half` is at least 2**-10 if that of g is
    at least 3e-17. Numbers down to 2**-4 of the root mean square keep 11 bits, smaller ones fewer; below
    2**-15 of it they are 0.

    Args:
      g: float32, any shape.
      bound: what `gradient_bound` returns.

    Returns:
      `(half, unit)`: `half` is float16 of the shape of `g`, `unit` is a power of two, a float32 scalar.
    """
    _, exponent = jnp.frexp(jnp.sqrt(jnp.sum(g * g)) * bound)
    # The unit is at least 2**-45: where squares vanish in float32, |g| seems smaller than it is.
    unit = jnp.ldexp(jnp.float32(1), jnp.clip(exponent - 15, -45, 120))
    return (g * (1 / unit)).astype(jnp.float16), unit
