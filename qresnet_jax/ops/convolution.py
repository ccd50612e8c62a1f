"""The convolutions and their gradients. With binary weights: integers forward, straight-through gradients backward.

With activations `x = q * step` (q integer levels) and binary weights `s * sign`,

    conv(x, s * sign) = conv(q, sign) * (s * step)

The inner convolution sums small integers, so it is exact in any order and on every device. This holds in
float32, and also with bfloat16 operands and float32 sums, because bfloat16 holds the levels up to 255
exactly.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from qresnet_jax.ops import cpu, gpu, plain
from qresnet_jax.ops.plain import CENTERED, Form
from qresnet_jax.quantize.weights import binary_scale, sign

# Levels, signs, the scale of the signs, the step of the levels, and an empty array of the input's dtype.
_Residuals = tuple[jax.Array, jax.Array, jax.Array, jax.Array | None, jax.Array]


def integers_of(x: jax.Array, step: jax.Array | None) -> jax.Array:
    """Returns the integers `q` of `x = q * step` as float32, or `x` itself if `step` is None."""
    return x if step is None else jnp.round(x.astype(jnp.float32) * (1 / step))


def integer_conv(
    q: jax.Array,
    signs: jax.Array,
    strides: tuple[int, int],
    max_level: int | None,
    dtype: DTypeLike,
    form: Form = CENTERED,
) -> jax.Array:
    """Computes `plain_conv(q, signs, strides, form)` with float32 sums, in the way that is fastest on the device.

    Args:
      q: `[N, H, W, C]`, integers from 0 to `max_level`, in any dtype.
      signs: `[kh, kw, C / groups, out]`, -1 or +1.
      strides: along H and W.
      max_level: the largest level, or None if `q` has arbitrary values.
      dtype: dtype of the operands, where no way for small integers is taken.
      form: padding and groups.

    Returns:
      float32 `[N, H', W', out]`.
    """

    def default(q: jax.Array, signs: jax.Array) -> jax.Array:
        return cpu.keep(plain.plain_conv(q.astype(dtype), signs.astype(dtype), strides, form))

    if max_level is None or max_level > 127:
        return default(q, signs)
    ways = {"cpu": partial(cpu.integer_conv, strides=strides, form=form)}
    if form == CENTERED and max_level * signs[..., 0].size <= gpu.MAX_INTEGER:
        ways["cuda"] = partial(gpu.integer_conv, strides=strides)
    return jax.lax.platform_dependent(q, signs, **ways, default=default)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def exact_conv(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], dtype: DTypeLike, form: Form = CENTERED
) -> jax.Array:
    """Computes `plain_conv` of integers whose sums stay below 2**24: exactly, on every device, in any order.

    Args:
      x: float32 `[N, H, W, C]` with integral values.
      kernel: float32 `[kh, kw, C, out]` with integral values.
      strides: along H and W.
      dtype: dtype of the operands of the kernel's gradient.
      form: padding and groups.

    Returns:
      float32 `[N, H', W', out]`.
    """
    how: dict[str, Any] = {"strides": strides, "form": form}
    plainly = partial(plain.plain_conv, **how, precision=jax.lax.Precision.HIGHEST)
    return jax.lax.platform_dependent(x, kernel, cpu=partial(cpu.float_conv, **how), default=plainly)


def _exact_conv_fwd(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], dtype: DTypeLike, form: Form
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return exact_conv(x, kernel, strides, dtype, form), (x, kernel)


def _exact_conv_bwd(
    strides: tuple[int, int],
    dtype: DTypeLike,
    form: Form,
    operands: tuple[jax.Array, jax.Array],
    g: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    x, kernel = operands
    dx = _input_gradient(g, kernel, strides, x.shape, form)
    return dx, _kernel_gradient(g, x, strides, kernel.shape, dtype, form)


exact_conv.defvjp(_exact_conv_fwd, _exact_conv_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def float_conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], form: Form = CENTERED) -> jax.Array:
    """Computes `plain_conv` and its gradients, in the forms that are fastest on the device.

    Args:
      x: float `[N, H, W, C]`.
      kernel: `[kh, kw, C / groups, out]`, of the dtype of `x`.
      strides: along H and W.
      form: padding and groups.

    Returns:
      `[N, H', W', out]`, of the dtype of `x`.
    """
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: cpu.keep(cpu.float_conv(x, kernel, strides, form)),
        default=partial(plain.plain_conv, strides=strides, form=form, out_dtype=x.dtype),
    )


def _float_conv_bwd(
    strides: tuple[int, int], form: Form, operands: tuple[jax.Array, jax.Array], g: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = operands
    g = cpu.keep(g)
    dx = cpu.keep(_input_gradient(g, kernel, strides, x.shape, form))
    return dx, _kernel_gradient(g, x, strides, kernel.shape, x.dtype, form).astype(kernel.dtype)


float_conv.defvjp(
    lambda x, kernel, strides, form: (float_conv(x, kernel, strides, form), (x, kernel)), _float_conv_bwd
)


def _input_gradient(
    g: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    shape: tuple[int, ...],
    form: Form,
    **ways: Any,
) -> jax.Array:
    of_x: dict[str, Any] = {"strides": strides, "shape": shape, "form": form}
    ways = {"cpu": partial(cpu.input_gradient, **of_x), **ways}
    return jax.lax.platform_dependent(g, kernel, **ways, default=partial(plain.input_gradient, **of_x))


def _kernel_gradient(
    g: jax.Array,
    x: jax.Array,
    strides: tuple[int, int],
    shape: tuple[int, ...],
    dtype: DTypeLike,
    form: Form,
    **ways: Any,
) -> jax.Array:
    """Returns the gradient of the kernel in float32, from operands that are converted to `dtype`."""

    def converted(of_kernel: Callable[..., jax.Array]) -> Callable[[jax.Array, jax.Array], jax.Array]:
        return lambda g, x: of_kernel(g.astype(dtype), x.astype(dtype), strides, shape, form).astype(
            jnp.float32
        )

    ways = {"cpu": converted(cpu.kernel_gradient), **ways}
    return jax.lax.platform_dependent(g, x, **ways, default=converted(plain.kernel_gradient))


def accumulate(
    x: jax.Array,
    kernel: jax.Array,
    step: jax.Array | None,
    strides: tuple[int, int],
    scale: str,
    dtype: DTypeLike,
    max_level: int | None = None,
    form: Form = CENTERED,
) -> tuple[jax.Array, jax.Array]:
    """Returns the sums of a binary convolution and their unit: `conv(x, binarize(kernel)) = acc * factor`.

    The arguments are those of `binary_conv`.

    Returns:
      `(acc, factor)`: `acc` is float32 `[N, H', W', out]`, with integral values if `step` is given; `factor`
      is a float32 scalar, or `[out]` with one scale per channel.
    """
    acc = integer_conv(
        integers_of(x, step), sign(kernel), strides, None if step is None else max_level, dtype, form
    )
    factor = binary_scale(kernel, scale)
    return acc, factor if step is None else factor * step


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5, 6, 7))
def binary_conv(
    x: jax.Array,
    kernel: jax.Array,
    step: jax.Array | None,
    strides: tuple[int, int],
    scale: str,
    dtype: DTypeLike,
    max_level: int | None = None,
    form: Form = CENTERED,
) -> jax.Array:
    """Computes `conv(x, binarize(kernel, scale))`, on integers if `step` is given.

    The gradients are those of the float convolution with `binarize(kernel)`, and pass straight through to the
    kernel. The gradient of `step` is 0: the quantizer that made `x` computes the gradient of its clipping
    level itself.

    Args:
      x: activations, float `[N, H, W, C]`, multiples of `step` unless that is None.
      kernel: latent weights or `s * sign`, float32 `[kh, kw, C / groups, out]`.
      step: distance of the activation levels, float scalar, or None for arbitrary activations.
      strides: along H and W.
      scale: "layer" or "channel", see `binarize`.
      dtype: dtype of the operands of products, float32 or bfloat16; sums are float32.
      max_level: the largest level, if it is known; it has no effect without a `step`. Some devices then
        compute the same integers faster, and GPUs compute the gradients in float16 (see
        `qresnet_jax.ops.gpu`).
      form: padding and groups.

    Returns:
      float32 `[N, H', W', out]`.

    Raises:
      ValueError: if `scale` is neither "layer" nor "channel".
    """
    acc, factor = accumulate(x, kernel, step, strides, scale, dtype, max_level, form)
    return acc * factor


def _binary_conv_fwd(
    x: jax.Array,
    kernel: jax.Array,
    step: jax.Array | None,
    strides: tuple[int, int],
    scale: str,
    dtype: DTypeLike,
    max_level: int | None,
    form: Form,
) -> tuple[jax.Array, _Residuals]:
    q, signs, s = integers_of(x, step), sign(kernel), binary_scale(kernel, scale)
    # The barrier makes XLA compute s once. Otherwise XLA computes it wherever it is needed, and keeps a copy of the
    # weights for that.
    s, factor = jax.lax.optimization_barrier((s, s if step is None else s * step))
    max_level = None if step is None else max_level
    # int8 takes a quarter of the memory of float32, and of the time to move it. bfloat16 is kept, because the gradient
    # needs it.
    small = dtype == jnp.float32 and max_level is not None and max_level <= 127
    q = cpu.keep(q.astype(jnp.int8 if small else dtype))
    out = integer_conv(q, signs, strides, max_level, dtype, form) * factor
    return out, (q, signs, s, step, jnp.zeros((0,), x.dtype))


def _binary_conv_bwd(
    strides: tuple[int, int],
    scale: str,
    dtype: DTypeLike,
    max_level: int | None,
    form: Form,
    residuals: _Residuals,
    g: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    q, signs, s, step, like_x = residuals
    # One operand of each product stays a small integer; the scales are applied outside, in float32. One scale for the
    # whole layer can be applied after the product, so that both gradients are computed from one and the same g.
    g = cpu.keep(g)
    before, after = (1, s) if scale == "layer" else (s, 1)
    x_ways, kernel_ways = {}, {}
    has_gpu_form = form == CENTERED and dtype == jnp.float32
    if step is not None and max_level is not None and has_gpu_form and gpu.may_round():
        bound = gpu.gradient_bound(g.shape, signs.shape, max_level)
        if bound is not None:
            how: dict[str, Any] = {"strides": strides, "bound": bound}
            x_ways["cuda"] = partial(gpu.input_gradient, shape=q.shape, **how)
            kernel_ways["cuda"] = partial(gpu.kernel_gradient, shape=signs.shape, **how)
    dx = _input_gradient((g * before).astype(dtype), signs.astype(dtype), strides, q.shape, form, **x_ways)
    dx = cpu.keep(dx).astype(jnp.float32) * after
    dkernel = _kernel_gradient(g, q, strides, signs.shape, dtype, form, **kernel_ways)
    if step is not None:
        dkernel = dkernel * step
    return dx.astype(like_x.dtype), dkernel, None if step is None else jnp.zeros_like(step)


binary_conv.defvjp(_binary_conv_fwd, _binary_conv_bwd)
