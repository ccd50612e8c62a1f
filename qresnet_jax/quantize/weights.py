"""Binary weights as pure functions: the sign, the scale, and `s * sign` with its straight-through gradient."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

SCALES = ("layer", "channel")


def check_scale(scale: str) -> None:
    """Raises a ValueError unless `scale` is one of `SCALES`."""
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")


def own_scale(variable: Any) -> str | None:
    """Returns the `weight_scale` that a variable carries, as `qresnet_jax.nn.BinaryKernel` does; None for plain arrays."""
    scale = getattr(variable, "weight_scale", None)
    return scale if isinstance(scale, str) else None


def sign(w: jax.Array) -> jax.Array:
    """Sign of `w` in its own dtype with `sign(0) = +1`: a weight has one bit, and no third value."""
    return jnp.where(w >= 0, 1, -1).astype(w.dtype)


def magnitude(w: jax.Array, scale: str = "layer") -> jax.Array:
    """Mean `|w|`, the scale `s` that is closest to `w` in least squares (Rastegari et al. 2016, eq. 6).

    Args:
      w: kernel, float, output channels last.
      scale: "layer" for one scale of shape `[]`, "channel" for one per output channel, `[out]`.

    Raises:
      ValueError: `scale` is neither.
    """
    return jnp.mean(jnp.abs(w), _averaged(w, scale))


def binary_scale(w: jax.Array, scale: str = "layer") -> jax.Array:
    """`magnitude(w, scale)` as one value plus the mean difference from it: exact where all are equal, as in `s * sign`."""
    axis, size = _averaged(w, scale), jnp.abs(w)
    origin = size[(0,) * size.ndim] if scale == "layer" else size[(0,) * (size.ndim - 1)]
    return origin + jnp.mean(size - origin, axis)


def _averaged(w: jax.Array, scale: str) -> tuple[int, ...] | None:
    """The axes of `w` that share a scale; None for all."""
    check_scale(scale)
    return None if scale == "layer" else tuple(range(w.ndim - 1))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def binarize(w: jax.Array, scale: str = "layer") -> jax.Array:
    """Binary weights `s * sign(w)` with `s = mean |w|` and `sign(0) = +1`; the gradient passes straight through.

    Applied twice it changes nothing.

    Args:
      w: latent weights, float, any shape, output channels last.
      scale: "layer" (one `s`) or "channel" (one per output channel).

    Returns:
      An array like `w`.

    Raises:
      ValueError: unknown `scale`.

    Rastegari et al. 2016 (XNOR-Net), eq. 4-6; Courbariaux et al. 2015 for the gradient.
    """
    return binary_scale(w, scale) * sign(w)


binarize.defvjp(lambda w, scale: (binarize(w, scale), None), lambda scale, _, g: (g,))
