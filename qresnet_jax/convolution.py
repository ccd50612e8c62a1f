"""The convolution with binary weights: integers forward, straight-through gradients backward.

With activations `x = q * step` (q integer levels) and binary weights `s * sign`,

    conv(x, s * sign) = conv(q, sign) * (s * step)

The inner convolution sums small integers, so it is exact in any order, on every device, in float32 and also with
bfloat16 operands and float32 sums (levels up to 255 are bfloat16 numbers).
"""

from functools import partial

import jax
import jax.numpy as jnp

from qresnet_jax.quantizers import magnitude, sign

_LAYOUT = ("NHWC", "HWIO", "NHWC")


def plain_conv(x, kernel, strides, *, precision=None, out_dtype=jnp.float32) -> jax.Array:
    """Convolution with `(k - 1) // 2` zeros on both sides, as PyTorch pads.

    At stride 2 this differs from XLA's "SAME", which pads less on the left and makes another network.

    Args:
      x: `[N, H, W, C]`.
      kernel: `[kh, kw, C, out]`, of the same dtype.
      strides: along H and W.
      precision: of the products, see `jax.lax.Precision`.
      out_dtype: of the sums.

    Returns:
      `[N, H', W', out]`.
    """
    padding = [((k - 1) // 2, (k - 1) // 2) for k in kernel.shape[:2]]
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        dimension_numbers=_LAYOUT,
        precision=precision,
        preferred_element_type=out_dtype,
    )


def levels(x: jax.Array, step: jax.Array | None) -> jax.Array:
    """The integers `q` of `x = q * step`, as float32; `x` itself where there is no step."""
    return x if step is None else jnp.round(x.astype(jnp.float32) / step)


def accumulate(x, kernel, step, strides, scale, dtype):
    """`(acc, factor)` with `conv(x, binarize(kernel)) = acc * factor`; acc float32, integral when `step` is given."""
    acc = plain_conv(levels(x, step).astype(dtype), sign(kernel).astype(dtype), strides)
    factor = magnitude(kernel, scale)
    return acc, factor if step is None else factor * step


@partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def binary_conv(
    x: jax.Array, kernel: jax.Array, step: jax.Array | None, strides: tuple[int, int], scale: str, dtype
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

    Returns:
      float32 `[N, H', W', out]`.
    """
    acc, factor = accumulate(x, kernel, step, strides, scale, dtype)
    return acc * factor


def _binary_conv_fwd(x, kernel, step, strides, scale, dtype):
    q, signs, s = levels(x, step).astype(dtype), sign(kernel).astype(dtype), magnitude(kernel, scale)
    out = plain_conv(q, signs, strides) * (s if step is None else s * step)
    return out, (q, signs, s, step, jnp.zeros((0,), x.dtype))


def _binary_conv_bwd(strides, scale, dtype, residuals, g):
    q, signs, s, step, like_x = residuals
    # One operand of each product stays a small integer; the scales are applied in float32, outside.
    conv = partial(plain_conv, strides=strides, out_dtype=dtype)
    (dx,) = jax.linear_transpose(lambda q: conv(q, signs), q)((g * s).astype(dtype))
    (dkernel,) = jax.linear_transpose(lambda signs: conv(q, signs), signs)(g.astype(dtype))
    dkernel = dkernel.astype(jnp.float32)
    if step is not None:
        dkernel = dkernel * step
    return dx.astype(like_x.dtype), dkernel, None if step is None else jnp.zeros_like(step)


binary_conv.defvjp(_binary_conv_fwd, _binary_conv_bwd)
