"""Binary weights as pure functions: the sign, the scale, and `s * sign` with its straight-through gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

SCALES = ("layer", "channel")


def check_scale(scale: str) -> None:
    """Checks a weight scale.

    Raises:
      ValueError: if `scale` is neither "layer" nor "channel".
    """
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")


def own_scale(variable: Any) -> str | None:
    """Returns the `weight_scale` of a variable such as `qresnet_jax.nn.BinaryKernel`, or None for a plain array."""
    scale = getattr(variable, "weight_scale", None)
    return scale if isinstance(scale, str) else None


def sign(w: jax.Array) -> jax.Array:
    """Returns the sign of `w` in the dtype of `w`, with `sign(0) = +1`: a one-bit weight has no third value."""
    return jnp.where(w >= 0, 1, -1).astype(w.dtype)


def magnitude(w: jax.Array, scale: str = "layer") -> jax.Array:
    """Returns the mean of `|w|`, the `s` for which `s * sign(w)` is closest to `w` (Rastegari et al. 2016, eq. 6).

    Args:
      w: kernel, float, output channels last.
      scale: "layer" for one mean over all weights, "channel" for one mean per output channel.

    Returns:
      The scale, of the dtype of `w`: shape `[]` for "layer", `[out]` for "channel".

    Raises:
      ValueError: if `scale` is neither "layer" nor "channel".
    """
    return jnp.mean(jnp.abs(w), _averaged(w, scale))


def binary_scale(w: jax.Array, scale: str = "layer") -> jax.Array:
    """Returns `magnitude(w, scale)`, computed as one of the values plus the mean difference from it.

    So the result is exact where all values are equal, as they are in `s * sign`. Arguments and errors are
    those of `magnitude`.
    """
    axis, size = _averaged(w, scale), jnp.abs(w)
    origin = size[(0,) * size.ndim] if scale == "layer" else size[(0,) * (size.ndim - 1)]
    return origin + jnp.mean(size - origin, axis)


def _averaged(w: jax.Array, scale: str) -> tuple[int, ...] | None:
    """Returns the axes of `w` that share a scale, or None for all axes."""
    check_scale(scale)
    return None if scale == "layer" else tuple(range(w.ndim - 1))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def binarize(w: jax.Array, scale: str = "layer") -> jax.Array:
    """Returns the binary weights `s * sign(w)` with `s = mean |w|` and `sign(0) = +1`.

    The gradient passes straight through. Binarizing a second time changes nothing.

    Args:
      w: latent weights, float, any shape, output channels last.
      scale: "layer" for one `s`, "channel" for one `s` per output channel.

    Returns:
      An array of the shape and dtype of `w`.

    Raises:
      ValueError: if `scale` is neither "layer" nor "channel".

    The weights are those of Rastegari et al. 2016 (XNOR-Net), eq. 4-6; the gradient is that of Courbariaux et
    al. 2015.
    """
    return binary_scale(w, scale) * sign(w)


binarize.defvjp(lambda w, scale: (binarize(w, scale), None), lambda scale, _, g: (g,))
