"""The convolution with binary weights: integers forward, straight-through gradients backward.

With activations `x = q * step` (q integer levels) and binary weights `s * sign`,

    conv(x, s * sign) = conv(q, sign) * (s * step)

The inner convolution sums small integers, so it is exact in any order, on every device, in float32 and also with
bfloat16 operands and float32 sums (levels up to 255 are bfloat16 numbers).
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from qresnet_jax.ops import cpu, gpu, plain
from qresnet_jax.quantize.weights import binary_scale, sign

# Levels, signs, their scale, the step of the levels, and an empty array of the input's dtype.
_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array]


def integers_of(x: jax.Array, step: jax.Array | None) -> jax.Array:
    """The integers `q` of `x = q * step`, as float32; `x` itself where there is no step."""
    return x if step is None else jnp.round(x.astype(jnp.float32) * (1 / step))


def integer_conv(
    q: jax.Array, signs: jax.Array, strides: tuple[int, int], max_level: int | None, dtype: DTypeLike
) -> jax.Array:
    """`plain_conv(q, signs)` of integral levels `q` up to `max_level` (None: arbitrary values), float32 sums."""

    def default(q: jax.Array, signs: jax.Array) -> jax.Array:
        return cpu.keep(plain.plain_conv(q.astype(dtype), signs.astype(dtype), strides))

    if max_level is None or max_level > 127:
        return default(q, signs)
    ways = {"cpu": partial(cpu.integer_conv, strides=strides)}
    if max_level * signs[..., 0].size <= gpu.MAX_INTEGER:
        ways["cuda"] = partial(gpu.integer_conv, strides=strides)
    return jax.lax.platform_dependent(q, signs, **ways, default=default)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def exact_conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], dtype: DTypeLike) -> jax.Array:
    """`plain_conv` of float32 integers whose sums stay below 2**24: exact on every device, in any order.

    `dtype` is that of the operands of the kernel's gradient.
    """
    plainly = partial(plain.plain_conv, strides=strides, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.platform_dependent(
        x, kernel, cpu=partial(cpu.float_conv, strides=strides), default=plainly
    )


def _exact_conv_fwd(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], dtype: DTypeLike
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return exact_conv(x, kernel, strides, dtype), (x, kernel)


def _exact_conv_bwd(
    strides: tuple[int, int], dtype: DTypeLike, operands: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = operands
    dx = plain.input_gradient(g, kernel, strides, x.shape)
    return dx, _kernel_gradient(g, x, strides, kernel.shape, dtype)


exact_conv.defvjp(_exact_conv_fwd, _exact_conv_bwd)


def _kernel_gradient(
    g: jax.Array, x: jax.Array, strides: tuple[int, int], shape: tuple[int, ...], dtype: DTypeLike
) -> jax.Array:
    return plain.kernel_gradient(g.astype(dtype), x.astype(dtype), strides, shape).astype(jnp.float32)


def accumulate(
    x: jax.Array,
    kernel: jax.Array,
    step: jax.Array | None,
    strides: tuple[int, int],
    scale: str,
    dtype: DTypeLike,
    max_level: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """`(acc, factor)` with `conv(x, binarize(kernel)) = acc * factor`; acc float32, integral when `step` is given."""
    acc = integer_conv(
        integers_of(x, step), sign(kernel), strides, None if step is None else max_level, dtype
    )
    factor = binary_scale(kernel, scale)
    return acc, factor if step is None else factor * step


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6))
def binary_conv(
    x: jax.Array,
    kernel: jax.Array,
    step: jax.Array | None,
    strides: tuple[int, int],
    scale: str,
    dtype: DTypeLike,
    max_level: int | None = None,
) -> jax.Array:
    """`conv(x, binarize(kernel, scale))`, computed on integers where `step` is given.

    The gradients are those of the float convolution with `binarize(kernel)`: straight through to the kernel. The
    step has none of its own; the quantizer that made `x` passes on the gradient of its clipping level.

    Args:
      x: activations `[N, H, W, C]`, multiples of `step` unless that is None.
      kernel: latent weights or `s * sign`, float32 `[kh, kw, C, out]`.
      step: distance of the activation levels, float scalar, or None for arbitrary activations.
      strides: along H and W.
      scale: "layer" or "channel", see `binarize`.
      dtype: of the products' operands, float32 or bfloat16; sums are float32.
      max_level: the largest level, where there is a step and it is known: some devices then take a faster way to the
        same integers, and GPUs compute the gradients in float16 (see `gpu_convolution`).

    Returns:
      float32 `[N, H', W', out]`.
    """
    acc, factor = accumulate(x, kernel, step, strides, scale, dtype, max_level)
    return acc * factor


def _binary_conv_fwd(
    x: jax.Array,
    kernel: jax.Array,
    step: jax.Array | None,
    strides: tuple[int, int],
    scale: str,
    dtype: DTypeLike,
    max_level: int | None,
) -> tuple[jax.Array, _Residuals]:
    q, signs, s = integers_of(x, step), sign(kernel), binary_scale(kernel, scale)
    # Computed once: otherwise XLA computes s again wherever it is needed, and keeps a copy of the weights for that.
    s, factor = jax.lax.optimization_barrier((s, s if step is None else s * step))
    max_level = None if step is None else max_level
    # A quarter of float32's memory, and of the time to move it; bfloat16 is kept as the gradient needs it.
    small = dtype == jnp.float32 and max_level is not None and max_level <= 127
    q = cpu.keep(q.astype(jnp.int8 if small else dtype))
    out = integer_conv(q, signs, strides, max_level, dtype) * factor
    return out, (q, signs, s, step, jnp.zeros((0,), x.dtype))


def _binary_conv_bwd(
    strides: tuple[int, int],
    scale: str,
    dtype: DTypeLike,
    max_level: int | None,
    residuals: _Residuals,
    g: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    q, signs, s, step, like_x = residuals
    # One operand of each product stays a small integer; the scales are applied in float32, outside. A scale of the
    # whole layer can wait until after the product, which then takes the same g as the kernel's gradient.
    g = cpu.keep(g)
    before, after = (1, s) if scale == "layer" else (s, 1)
    of_x: dict[str, Any] = {"strides": strides, "shape": q.shape}
    of_kernel: dict[str, Any] = {"strides": strides, "shape": signs.shape}
    x_ways, kernel_ways = {"cpu": partial(cpu.input_gradient, **of_x)}, {}
    bound = None
    if step is not None and max_level is not None and dtype == jnp.float32 and gpu.may_round():
        bound = gpu.gradient_bound(g.shape, signs.shape, max_level)
    if bound is not None:
        x_ways["cuda"] = partial(gpu.input_gradient, **of_x, bound=bound)
        kernel_ways["cuda"] = partial(gpu.kernel_gradient, **of_kernel, bound=bound)
    dx = jax.lax.platform_dependent(
        (g * before).astype(dtype),
        signs.astype(dtype),
        **x_ways,
        default=partial(plain.input_gradient, **of_x),
    )
    dx = cpu.keep(dx).astype(jnp.float32) * after
    dkernel = jax.lax.platform_dependent(
        g, q, **kernel_ways, default=partial(_kernel_gradient, **of_kernel, dtype=dtype)
    )
    if step is not None:
        dkernel = dkernel * step
    return dx.astype(like_x.dtype), dkernel, None if step is None else jnp.zeros_like(step)


binary_conv.defvjp(_binary_conv_fwd, _binary_conv_bwd)
