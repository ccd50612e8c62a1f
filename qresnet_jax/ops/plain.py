"""The convolution of all layers: NHWC, HWIO, padded as PyTorch pads; and its two transposes."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

LAYOUT = ("NHWC", "HWIO", "NHWC")


def plain_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    *,
    precision: jax.lax.Precision | None = None,
    out_dtype: DTypeLike = jnp.float32,
) -> jax.Array:
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
        dimension_numbers=LAYOUT,
        precision=precision,
        preferred_element_type=out_dtype,
    )


def input_gradient(
    g: jax.Array, kernel: jax.Array, strides: tuple[int, int], shape: tuple[int, ...]
) -> jax.Array:
    """The transpose of `plain_conv` in its input of shape `[N, H, W, C]`, in the dtype of `g` and `kernel`."""
    x = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda x: plain_conv(x, kernel, strides, out_dtype=g.dtype), x)(g)[0]


def kernel_gradient(
    g: jax.Array, x: jax.Array, strides: tuple[int, int], shape: tuple[int, ...]
) -> jax.Array:
    """The transpose of `plain_conv` in its kernel of shape `[kh, kw, C, out]`, in the dtype of `g` and `x`."""
    kernel = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda k: plain_conv(x, k, strides, out_dtype=g.dtype), kernel)(g)[0]
