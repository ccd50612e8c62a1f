"""The convolution that all layers use (NHWC, HWIO, padded as in PyTorch), and its two transposes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

LAYOUT = ("NHWC", "HWIO", "NHWC")


class Form(NamedTuple):
    """What a convolution has besides kernel and strides.

    Args:
      padding: zeros before and after the image, along H and W; None for `(k - 1) // 2` on both sides.
      groups: parts into which the channels are divided; each part of the output reads only that part of the input.
    """

    padding: tuple[tuple[int, int], tuple[int, int]] | None = None
    groups: int = 1

    def borders(self, kernel_size: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
        """Returns the zeros before and after the image."""
        return self.padding or tuple(((k - 1) // 2, (k - 1) // 2) for k in kernel_size)


CENTERED = Form()


def plain_conv(
    x: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    form: Form = CENTERED,
    *,
    precision: jax.lax.Precision | None = None,
    out_dtype: DTypeLike = jnp.float32,
) -> jax.Array:
    """Convolves with `(k - 1) // 2` zeros on both sides, as PyTorch pads, unless `form` says otherwise.

    At stride 2 this differs from XLA's "SAME", which pads less on the left and so computes something else.

    Args:
      x: `[N, H, W, C]`.
      kernel: `[kh, kw, C / groups, out]`, of the dtype of `x`.
      strides: along H and W.
      form: padding and groups.
      precision: precision of the products, see `jax.lax.Precision`.
      out_dtype: dtype of the sums.

    Returns:
      The sums, `[N, H', W', out]` of `out_dtype`.
    """
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        form.borders(kernel.shape[:2]),
        dimension_numbers=LAYOUT,
        feature_group_count=form.groups,
        precision=precision,
        preferred_element_type=out_dtype,
    )


def input_gradient(
    g: jax.Array,
    kernel: jax.Array,
    strides: tuple[int, int],
    shape: tuple[int, ...],
    form: Form = CENTERED,
) -> jax.Array:
    """Computes the transpose of `plain_conv` with respect to its input, whose `shape` is `(N, H, W, C)`.

    `g` is `[N, H', W', out]`; the result has the dtype of `g`, which `kernel` must have too.
    """
    x = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda x: plain_conv(x, kernel, strides, form, out_dtype=g.dtype), x)(g)[0]


def kernel_gradient(
    g: jax.Array, x: jax.Array, strides: tuple[int, int], shape: tuple[int, ...], form: Form = CENTERED
) -> jax.Array:
    """Computes the transpose of `plain_conv` with respect to its kernel, whose `shape` is `(kh, kw, C / groups, out)`.

    `g` is `[N, H', W', out]`; the result has the dtype of `g`, which `x` must have too.
    """
    kernel = jax.ShapeDtypeStruct(shape, g.dtype)
    return jax.linear_transpose(lambda k: plain_conv(x, k, strides, form, out_dtype=g.dtype), kernel)(g)[0]
