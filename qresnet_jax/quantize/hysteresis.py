"""The hysteresis loop: binary weights as an optax gradient transformation."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qresnet_jax.quantize.weights import check_scale, magnitude, own_scale, sign


class HysteresisState(NamedTuple):
    count: jax.Array  # type: ignore[assignment]  # hides tuple.count; int32 [], number of updates so far
    latent: optax.Params  # float32, shaped like the params
    sign: optax.Params  # int8, shaped like the params, -1 or +1
    flips: optax.Params  # int32 [] per array, signs that changed in the last update
    ever_flipped: optax.Params  # bool, shaped like the params
    inner: optax.OptState  # state of the wrapped optimizer


def hysteresis_binarize(
    threshold: float | optax.Schedule = 0.1,
    relative: bool = True,
    scale: str | None = None,
    inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Keeps float latent weights in its state and leaves `s * sign` in the params, up to float32 rounding.

    A sign changes only when the latent weight has crossed `t` on the other side:

        latent' = latent + updates
        t       = threshold * s'  if relative else threshold        (s' = mean |latent'|)
        sign'   = +1 where latent' >= t, -1 where latent' <= -t, else sign
        emitted updates = s' * sign' - params

    With threshold 0 this is the plain sign, with `sign(0) = +1`. It stands last in a chain, or wraps an
    optimizer as `inner`, which then sees the *latents* as its params: weight decay and AdamW belong inside.
    `init(params)` takes the params as the first latents.

    Args:
      threshold: half width of the loop, >= 0, or a schedule of the step; in units of `s'` if relative, else of
        the latent weights.
      relative: see above. An absolute threshold freezes layers whose latents are small.
      scale: "layer" or "channel", see `qresnet_jax.binarize`. None takes what each variable says (the `weight_scale` of a
        `qresnet_jax.BinaryKernel`), and "layer" for plain arrays. `update` may be called with plain arrays where `init` got
        variables, as `flax.nnx.Optimizer` does: what they said is remembered by their place in the tree.
      inner: an optax transformation that turns gradients into updates, and gets `update`'s extra arguments; None passes
        updates on as they are.

    Returns:
      A transformation whose state has the fields `latent` (float32) and `sign` (int8), and counts of flips for diagnosis.

    Raises:
      ValueError: a threshold that is not >= 0; unknown scale, or another than a variable's own; `update` called without
        params; `init` called for variables of other scales than before.

    Courbariaux et al. 2015 (BinaryConnect) for latent weights; the loop is the original script's `weight_thres`.
    """
    inner = optax.with_extra_args_support(optax.identity() if inner is None else inner)
    if isinstance(threshold, numbers.Real) and not float(threshold) >= 0:  # an array may be traced
        raise ValueError(f"hysteresis threshold must be >= 0, got {threshold}")
    if scale is not None:
        check_scale(scale)
    remembered: dict[str, str] = {}  # scales that variables had at `init`, by path

    def init(params: optax.Params) -> HysteresisState:
        _scales(params, scale, remembered)  # refuses one that contradicts a variable's own
        latent = jax.tree.map(lambda w: jnp.array(w, jnp.float32), params)
        signs = jax.tree.map(lambda w: sign(w).astype(jnp.int8), latent)
        flips = jax.tree.map(lambda w: jnp.zeros([], jnp.int32), latent)
        ever_flipped = jax.tree.map(lambda w: jnp.zeros(w.shape, bool), latent)
        return HysteresisState(
            jnp.zeros([], jnp.int32), latent, signs, flips, ever_flipped, inner.init(latent)
        )

    def update(
        updates: optax.Updates, state: HysteresisState, params: optax.Params | None = None, **extra: Any
    ) -> tuple[optax.Updates, HysteresisState]:
        if params is None:
            raise ValueError("hysteresis_binarize needs the params: call update(updates, state, params)")
        updates, inner_state = inner.update(updates, state.inner, state.latent, **extra)
        width = threshold(state.count) if callable(threshold) else threshold

        latent = jax.tree.map(lambda w, u: w + u.astype(w.dtype), state.latent, updates)
        s = jax.tree.map(magnitude, latent, _scales(params, scale, remembered))
        signs = jax.tree.map(
            lambda w, s, old: _loop(w, old, width * s if relative else width), latent, s, state.sign
        )
        emitted = jax.tree.map(
            lambda s, new, p: (s * new.astype(s.dtype)).astype(p.dtype) - p, s, signs, params
        )

        changed = jax.tree.map(jnp.not_equal, signs, state.sign)
        flips = jax.tree.map(lambda c: jnp.sum(c, dtype=jnp.int32), changed)
        ever_flipped = jax.tree.map(jnp.logical_or, state.ever_flipped, changed)
        count = optax.safe_increment(state.count)
        return emitted, HysteresisState(count, latent, signs, flips, ever_flipped, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def _scales(params: optax.Params, scale: str | None, remembered: dict[str, str]) -> Any:
    """A tree like `params` with the scale of each array."""

    def of_variable(path: jax.tree_util.KeyPath, variable: Any) -> Any:
        own, name = own_scale(variable), jax.tree_util.keystr(path)
        if own is None:
            own = remembered.get(name)
        elif jax.tree.leaves(variable):  # optax.partition leaves empty ones of other groups
            if remembered.setdefault(name, own) != own:
                raise ValueError(
                    f"{name} has weight_scale={own!r}, but had {remembered[name]!r} in the network that this "
                    "transformation was made for: call hysteresis_binarize once for each network"
                )
            if scale not in (None, own):
                raise ValueError(
                    f"hysteresis_binarize has scale={scale!r}, but {name} has weight_scale={own!r}: leave scale out, "
                    "and each variable's own is taken"
                )
        return jax.tree.map(lambda _: scale or own or "layer", variable)

    return jax.tree_util.tree_map_with_path(of_variable, params, is_leaf=lambda x: own_scale(x) is not None)


def _loop(latent: jax.Array, old: jax.Array, t: jax.Array | float) -> jax.Array:
    return jnp.where(latent >= t, 1, jnp.where(latent <= -t, -1, old)).astype(jnp.int8)
