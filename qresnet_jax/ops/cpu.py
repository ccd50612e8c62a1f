"""The convolution's three products in the forms that XLA runs fastest on CPUs.

Each function here computes what `plain_conv` or its transposes compute; `qresnet_jax.ops.convolution` picks
them by platform, and the tests compare the two. On other devices the plain forms are faster.

Three facts about XLA:CPU (jax 0.10) explain these forms. First, convolutions of int8 run on the dot-product
instructions, about 1.5 times as fast as float32. Second, a convolution to fewer than 32 channels leaves half
of each vector idle, so the kernel is doubled and computes two neighbouring columns at once. Third, the kernel's
gradient sums over all images at once, which no longer fits the caches; in parts of 16 images it takes 0.35 to
0.5 of the time.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from qresnet_jax.ops import plain
from qresnet_jax.ops.plain import CENTERED, LAYOUT, Form

_VECTOR_CHANNELS = 32
_IMAGES = 16  # in a part of the kernel's gradient
_MOST_PARTS = 16  # as each is compiled


def integer_conv(
    levels: jax.Array, signs: jax.Array, strides: tuple[int, int], form: Form = CENTERED
) -> jax.Array:
    """Computes `plain_conv(levels, signs, strides, form)` in int8 with int32 sums, for levels up to 127.

    Args:
      levels: float32 `[N, H, W, C]`, integers 0 to 127.
      signs: float32 `[kh, kw, C / groups, out]`, -1 or +1.
      strides: along H and W.
      form: padding and groups. Only the usual form has fast ways of its own.

    Returns:
      The sums, float32 `[N, H', W', out]`.
    """
    if form != CENTERED:
        return other_conv(levels.astype(jnp.float32), signs.astype(jnp.float32), strides, form)
    levels, signs = levels.astype(jnp.int8), signs.astype(jnp.int8)
    conv = _two_columns if _is_narrow(signs, strides, levels.shape[2]) else plain.plain_conv
    # The sums lie in memory as integers, because the conversion costs nothing in the fusions that follow.
    return jax.lax.optimization_barrier(conv(levels, signs, strides, out_dtype=jnp.int32)).astype(jnp.float32)


def float_conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], form: Form = CENTERED) -> jax.Array:
    """Computes `plain_conv(x, kernel, strides, form)` at the highest precision, with sums of the dtype of `x`."""
    if form != CENTERED:
        return other_conv(x, kernel, strides, form)
    if _is_narrow(kernel, strides, x.shape[2]):
        if x.shape[3] == 3:  # three channels take three times as long as four
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1)))
            kernel = jnp.pad(kernel, ((0, 0), (0, 0), (0, 1), (0, 0)))
        return _two_columns(x, kernel, strides, out_dtype=x.dtype)
    return plain.plain_conv(x, kernel, strides, precision=jax.lax.Precision.HIGHEST, out_dtype=x.dtype)


def input_gradient(
    g: jax.Array,
    signs: jax.Array,
    strides: tuple[int, int],
    shape: tuple[int, ...],
    form: Form = CENTERED,
) -> jax.Array:
    """Computes the transpose of `plain_conv` with respect to its input.

    Args:
      g: gradient of the output, float `[N, H', W', out]`.
      signs: `[kh, kw, C, out]`, of the dtype of `g`.
      strides, form: those of the forward convolution.
      shape: shape of the input, `(N, H, W, C)`.

    Returns:
      The gradient of the input, `[N, H, W, C]`, of the dtype of `g`.
    """
    if form != CENTERED:
        like_x = jax.ShapeDtypeStruct(shape, g.dtype)
        return jax.linear_transpose(lambda x: other_conv(x, signs, strides, form), like_x)(g)[0]
    flipped = jnp.swapaxes(signs[::-1, ::-1], 2, 3)
    if strides == (1, 1) and _is_narrow(flipped, strides, shape[2]):
        return _two_columns(g, flipped, strides, out_dtype=g.dtype)
    if (
        strides == (2, 2)
        and signs.shape[:2] == (3, 3)
        and shape[1] % 2 == 0
        and shape[2] % 2 == 0
        and shape[3] < 32
    ):
        return _four_phases(g, signs)
    return plain.input_gradient(g, signs, strides, shape)


def kernel_gradient(
    g: jax.Array, x: jax.Array, strides: tuple[int, int], shape: tuple[int, ...], form: Form = CENTERED
) -> jax.Array:
    """Computes the transpose of `plain_conv` with respect to its kernel, as the sum over parts of the images.

    Args:
      g: gradient of the output, float `[N, H', W', out]`.
      x: the input, `[N, H, W, C]`, of the dtype of `g`.
      strides, form: those of the forward convolution.
      shape: shape of the kernel, `(kh, kw, C / groups, out)`.

    Returns:
      The gradient of the kernel, of the dtype of `g`.
    """
    if form != CENTERED:
        like_kernel = jax.ShapeDtypeStruct(shape, g.dtype)
        return jax.linear_transpose(lambda kernel: other_conv(x, kernel, strides, form), like_kernel)(g)[0]
    size = max(_IMAGES, -(-len(x) // _MOST_PARTS))
    parts = [
        plain.kernel_gradient(g[i : i + size], x[i : i + size], strides, shape)
        for i in range(0, len(x), size)
    ]
    return functools.reduce(jnp.add, parts) if parts else jnp.zeros(shape, g.dtype)


def other_conv(x: jax.Array, kernel: jax.Array, strides: tuple[int, int], form: Form) -> jax.Array:
    """Computes `plain_conv(x, kernel, strides, form)` at the highest precision, with sums of the dtype of `x`.

    XLA:CPU takes ten times as long for a convolution with groups as for one without. So a depthwise kernel is multiplied
    tap by tap, and other groups become one kernel with zeros between them.
    """
    if form.groups == 1:
        return plain.plain_conv(
            x, kernel, strides, form, precision=jax.lax.Precision.HIGHEST, out_dtype=x.dtype
        )
    if kernel.shape[2] > 1:
        return other_conv(x, _without_groups(kernel, form.groups), strides, form._replace(groups=1))
    kh, kw = kernel.shape[:2]
    x = jnp.repeat(x, kernel.shape[3] // form.groups, axis=3)
    x = jnp.pad(x, ((0, 0), *form.borders((kh, kw)), (0, 0)))
    rows, columns = x.shape[1] - kh + 1, x.shape[2] - kw + 1
    taps = [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]] * kernel[i, j, 0]
        for i in range(kh)
        for j in range(kw)
    ]
    return functools.reduce(jnp.add, taps)


def _without_groups(kernel: jax.Array, groups: int) -> jax.Array:
    """Returns the kernel of the same convolution without groups: `[kh, kw, C / groups, out]` -> `[kh, kw, C, out]`."""
    kh, kw, features, out = kernel.shape
    parts = kernel.reshape(kh, kw, 1, features, groups, out // groups)
    own = jnp.eye(groups, dtype=kernel.dtype)[:, None, :, None]
    return (parts * own).reshape(kh, kw, groups * features, out)


def _is_narrow(kernel: jax.Array, strides: tuple[int, int], width: int) -> bool:
    return (
        kernel.shape[:2] == (3, 3)
        and strides == (1, 1)
        and kernel.shape[3] < _VECTOR_CHANNELS
        and width % 2 == 0
    )


def _two_columns(
    x: jax.Array, kernel: jax.Array, strides: tuple[int, int], out_dtype: DTypeLike = jnp.float32
) -> jax.Array:
    """Convolves an image of even width with a 3x3 kernel, two columns at once.

    Beside the kernel stands a copy that is shifted by one column; the pair runs at stride 2 along W.
    """
    assert strides == (1, 1)
    out = kernel.shape[3]
    first = jnp.pad(kernel, ((0, 0), (0, 1), (0, 0), (0, 0)))
    second = jnp.pad(kernel, ((0, 0), (1, 0), (0, 0), (0, 0)))
    both = jnp.concatenate([first, second], axis=3)
    y = jax.lax.conv_general_dilated(
        x, both, (1, 2), [(1, 1), (1, 1)], dimension_numbers=LAYOUT, preferred_element_type=out_dtype
    )
    return y.reshape(*x.shape[:3], out)


def _four_phases(g: jax.Array, kernel: jax.Array) -> jax.Array:
    """Computes the input gradient of a 3x3 convolution of stride 2 by one 2x2 convolution.

    It gives the even and the odd rows and columns as separate channels. Input row 2a takes part in output row
    a through tap 1; input row 2a + 1 takes part in output row a through tap 2, and in output row a + 1
    through tap 0.
    """
    channels, out = kernel.shape[2:]
    taps = jnp.swapaxes(kernel, 2, 3)  # [kh, kw, out, C]
    nothing = jnp.zeros_like(taps[0])
    rows = jnp.stack(
        [jnp.stack([taps[1], taps[2]]), jnp.stack([nothing, taps[0]])]
    )  # [window, phase, kw, out, C]
    none = jnp.zeros_like(rows[:, :, 0])
    columns = jnp.stack(
        [jnp.stack([rows[:, :, 1], rows[:, :, 2]]), jnp.stack([none, rows[:, :, 0]])]
    )  # [window W, phase W, window H, phase H, out, C]
    windows = columns.transpose(2, 0, 4, 3, 1, 5).reshape(2, 2, out, 4 * channels)
    y = jax.lax.conv_general_dilated(g, windows, (1, 1), [(0, 1), (0, 1)], dimension_numbers=LAYOUT)
    n, height, width, _ = y.shape
    y = y.reshape(n, height, width, 2, 2, channels).transpose(0, 1, 3, 2, 4, 5)
    return y.reshape(n, 2 * height, 2 * width, channels)


def keep(x: jax.Array) -> jax.Array:
    """Returns `x`, and makes XLA:CPU compute it once instead of once in every consumer that it is fused into."""
    return jax.lax.platform_dependent(x, cpu=jax.lax.optimization_barrier, default=lambda x: x)
