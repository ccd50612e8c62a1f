"""Quantizers as pure functions: what the forward pass rounds, and which gradient stands in for the rounding.

Every activation quantizer maps onto integer levels times one step, `y = q * step` with `q` in
`0 .. max_level`, so a convolution can recover the integers exactly (see `qresnet_jax.ops.convolution`).
Rounding has no useful derivative of its own, so each quantizer is defined here together with the surrogate
gradient that it is trained with.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from qresnet_jax.quantize.registry import MOST_BITS

MIN_CLIPPING_LEVEL = 1e-2  # a clipping level at 0 would divide by 0 and never recover

_Pair = tuple[jax.Array, jax.Array]


def check_bits(bits: int) -> None:
    """Checks the number of bits of an activation quantizer.

    Raises:
      ValueError: if `bits` is not 1 to 8.
    """
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"an activation quantizer has 1 to {MOST_BITS} bits, got {bits}")


def _uniform(x: jax.Array, alpha: jax.Array | float, bits: int) -> jax.Array:
    """Rounds `clip(x, 0, alpha)` to `2**bits` evenly spaced values, 0 and alpha among them."""
    check_bits(bits)
    n = 2**bits - 1
    return jnp.round(jnp.clip(x, 0, alpha) * (n / alpha)) * (alpha / n)


def _in_float32(forward: Callable[..., jax.Array], x: jax.Array, *args: Any) -> jax.Array:
    """Applies `forward` in float32 whatever the dtype of `x`: bfloat16 is too coarse for the thresholds."""
    return forward(x.astype(jnp.float32), *args).astype(x.dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def pact(x: jax.Array, alpha: jax.Array, bits: int) -> jax.Array:
    """Returns `round(clip(x, 0, alpha) * n / alpha) * alpha / n` with `n = 2**bits - 1`.

    The gradient `dy/dx` is 1 where `0 < x < alpha`, else 0. The gradient `dy/dalpha` is 1 where `x >= alpha`,
    else 0.

    Args:
      x: activations, float, any shape.
      alpha: clipping level, float scalar > 0, in the units of `x`.
      bits: number of bits, 1 to 8.

    Returns:
      An array of the shape and dtype of `x`, with values `0, alpha / n, ..., alpha`.

    Raises:
      ValueError: if `bits` is not 1 to 8.

    See Choi et al. 2018 (PACT), eq. 1-3.
    """
    return _in_float32(_uniform, x, alpha, bits)


def _pact_fwd(x: jax.Array, alpha: jax.Array, bits: int) -> tuple[jax.Array, _Pair]:
    return pact(x, alpha, bits), (x, alpha)


def _pact_bwd(bits: int, residuals: _Pair, g: jax.Array) -> _Pair:
    x, alpha = residuals
    dx = jnp.where((x > 0) & (x < alpha), g, 0)
    dalpha = jnp.sum(jnp.where(x >= alpha, g, 0).astype(jnp.float32))
    return dx, dalpha.astype(alpha.dtype)


pact.defvjp(_pact_fwd, _pact_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def lsq(x: jax.Array, alpha: jax.Array, bits: int) -> jax.Array:
    """Returns the values of `pact`, but trains the clipping level as a learned step size.

    The gradient `dy/dx` is that of `pact`. With the step `alpha / n`, the gradient `dy/dalpha` is
    `(round(v) - v) / n` for `v = x * n / alpha` inside the range and 1 above it, times the gradient scale
    `1 / sqrt(N * n)`, where N is the number of elements per image.

    Args:
      x: activations, float, `[images, ...]`.
      alpha: clipping level, float scalar > 0.
      bits: number of bits, 1 to 8.

    Returns:
      An array of the shape and dtype of `x`.

    Raises:
      ValueError: if `bits` is not 1 to 8.

    See Esser et al. 2020 (LSQ), eq. 1-3 and section 2.2.
    """
    return _in_float32(_uniform, x, alpha, bits)


def _lsq_fwd(x: jax.Array, alpha: jax.Array, bits: int) -> tuple[jax.Array, _Pair]:
    return lsq(x, alpha, bits), (x, alpha)


def _lsq_bwd(bits: int, residuals: _Pair, g: jax.Array) -> _Pair:
    x, alpha = residuals
    n = 2**bits - 1
    dx = jnp.where((x > 0) & (x < alpha), g, 0)
    v = x.astype(jnp.float32) * (n / alpha)
    slope = jnp.where(x <= 0, 0, jnp.where(x >= alpha, 1, (jnp.round(v) - v) / n))
    gradient_scale = (max(x.size // x.shape[0], 1) * n) ** -0.5
    dalpha = jnp.sum(g.astype(jnp.float32) * slope) * gradient_scale
    return dx, dalpha.astype(alpha.dtype)


lsq.defvjp(_lsq_fwd, _lsq_bwd)


def fixed(x: jax.Array, bits: int) -> jax.Array:
    """Rounds `clip(x, 0, n)` to integers, with `n = 2**bits - 1`.

    The gradient is `dy/dx = 1` where `0 < x < n`, else 0.

    Args:
      x: activations, float, any shape.
      bits: number of bits, 1 to 8.

    Returns:
      An array of the shape and dtype of `x`.

    Raises:
      ValueError: if `bits` is not 1 to 8.

    See Zhou et al. 2016 (DoReFa-Net).
    """
    return pact(x, jnp.float32(2**bits - 1), bits)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def sigmoid(x: jax.Array, temperature: jax.Array, bits: int) -> jax.Array:
    """Returns the values of `fixed`, with the gradient of a staircase of scaled sigmoids.

    The gradient is `dy/dx = sum_i t * S(t * (x - i + 1/2)) * (1 - S(t * (x - i + 1/2)))` over the steps
    `i = 1 .. n`, where S is the logistic function. The larger `t` is, the closer the sigmoids come to the
    true staircase.

    Args:
      x: activations, float, any shape.
      temperature: `t`, float scalar > 0, in 1 / units of x.
      bits: number of bits, 1 to 8.

    Returns:
      An array of the shape and dtype of `x`.

    Raises:
      ValueError: if `bits` is not 1 to 8.

    Yang et al. 2019 (Quantization Networks) train with such a staircase.
    """
    return _in_float32(_uniform, x, 2.0**bits - 1, bits)


def _sigmoid_fwd(x: jax.Array, temperature: jax.Array, bits: int) -> tuple[jax.Array, _Pair]:
    return sigmoid(x, temperature, bits), (x, temperature)


def _sigmoid_bwd(bits: int, residuals: _Pair, g: jax.Array) -> _Pair:
    x, t = residuals
    slope = jnp.zeros(x.shape, jnp.float32)
    for i in range(1, 2**bits):
        s = jax.nn.sigmoid(t * (x.astype(jnp.float32) - (i - 0.5)))
        slope = slope + t * s * (1 - s)
    return (g * slope).astype(x.dtype), jnp.zeros_like(t)


sigmoid.defvjp(_sigmoid_fwd, _sigmoid_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def power_of_two(x: jax.Array, alpha: jax.Array, bits: int) -> jax.Array:
    """Rounds `clip(x, 0, alpha)` to the nearest of `0` and `alpha * 2**-i`, `i = n - 1 .. 0`, with `n = 2**bits - 1`.

    In units of the step `alpha * 2**(1 - n)` the levels are the integers `0, 1, 2, 4, ..., 2**(n - 1)`. The
    gradients are those of `pact`.

    Args:
      x: activations, float, any shape.
      alpha: clipping level, float scalar > 0.
      bits: number of bits, 1 to 4. With more bits the largest level would not fit an exact float32 sum.

    Returns:
      An array of the shape and dtype of `x`.

    The levels are those of Miyashita et al. 2016, the gradients those of Choi et al. 2018 (PACT).
    """
    return _in_float32(_power_of_two, x, alpha, bits)


def _power_of_two(x: jax.Array, alpha: jax.Array, bits: int) -> jax.Array:
    n = 2**bits - 1
    step = alpha * 2.0 ** (1 - n)
    v = jnp.clip(x, 0, alpha) / step
    q = jnp.where(v > 0.5, 1.0, 0.0)
    for i in range(1, n):  # level 2**i starts halfway between its neighbours
        q = jnp.where(v > 0.75 * 2.0**i, 2.0**i, q)
    return q * step


power_of_two.defvjp(lambda x, alpha, bits: (power_of_two(x, alpha, bits), (x, alpha)), _pact_bwd)
