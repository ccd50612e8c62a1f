"""The hysteresis loop: binary weights as an optax gradient transformation."""

import numbers
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from qresnet_jax.quantize.weights import check_scale, magnitude, own_scale, sign


class HysteresisState(NamedTuple):
    """The state of `hysteresis_binarize`: the latent weights, their signs, and counts of flips."""

    count: jax.Array  # type: ignore[assignment]  # hides tuple.count; int32 [], number of updates so far
    latent: optax.Params  # float32, shaped like the params
    sign: optax.Params  # int8, shaped like the params, -1 or +1
    flips: optax.Params  # int32 [] per array, number of signs that changed in the last update
    ever_flipped: optax.Params  # bool, shaped like the params
    inner: optax.OptState  # state of the wrapped optimizer


def hysteresis_binarize(
    threshold: float | optax.Schedule = 0.0,
    relative: bool = True,
    scale: str | None = None,
    inner: optax.GradientTransformation | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Returns a transformation that keeps latent weights in its state and leaves `s * sign` in the params.

    A sign changes only when its latent weight has crossed the threshold `t` on the other side:

        latent' = latent + updates
        t       = threshold * s'  if relative else threshold        (s' = mean |latent'|)
        sign'   = +1 where latent' >= t, -1 where latent' <= -t, else sign
        emitted updates = s' * sign' - params

    With threshold 0 this is the plain sign, with `sign(0) = +1`. The params equal `s * sign` up to float32
    rounding. The transformation either stands last in a chain, or wraps an optimizer as `inner`. The inner
    optimizer sees the *latent weights* as its params, so weight decay and AdamW belong there. `init(params)`
    takes the params as the first latent weights.

    Args:
      threshold: half the width of the hysteresis loop, >= 0, or a schedule of it. It is in units of `s'` if
        `relative`, else in units of the latent weights. The default, 0, is that of the configs: no loop.
      relative: whether the threshold is multiplied by `s'`. An absolute threshold freezes layers whose latent
        weights are small.
      scale: "layer" or "channel", see `qresnet_jax.binarize`. With None, each variable's own `weight_scale`
        is used (see `qresnet_jax.BinaryKernel`), and "layer" for plain arrays. If `init` gets variables,
        `update` may still be called with plain arrays, as `flax.nnx.Optimizer` does: the scales are
        remembered by their place in the tree.
      inner: an optax transformation that turns gradients into updates. It also gets the extra arguments of
        `update`. With None, updates are applied as they come.

    Returns:
      A transformation whose state is a `HysteresisState`, with the fields `latent` (float32), `sign` (int8),
      and counts of flips for diagnosis.

    Raises:
      ValueError: if `threshold` is not >= 0, if `scale` is unknown or contradicts a variable's own scale, if
        `update` is called without params, or if `init` is called again for variables with other scales.

    Latent weights come from Courbariaux et al. 2015 (BinaryConnect); the loop is the option
    `weight_thres` of the original script, which docs/training.md describes.
    """
    inner = optax.with_extra_args_support(optax.identity() if inner is None else inner)
    if isinstance(threshold, numbers.Real) and not float(threshold) >= 0:  # an array may be traced
        raise ValueError(f"the hysteresis threshold must be >= 0, got {threshold}")
    if scale is not None:
        check_scale(scale)
    remembered: dict[str, str] = {}  # the scales that variables had at `init`, by path

    def init(params: optax.Params) -> HysteresisState:
        _scales(params, scale, remembered)  # refuses a scale that contradicts a variable's own
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
    """Returns a tree like `params` with the scale of each array."""

    def of_variable(path: jax.tree_util.KeyPath, variable: Any) -> Any:
        own, name = own_scale(variable), jax.tree_util.keystr(path)
        if own is None:
            own = remembered.get(name)
        elif jax.tree.leaves(variable):  # `optax.partition` leaves the variables of other groups empty
            if remembered.setdefault(name, own) != own:
                raise ValueError(
                    f"{name} has weight_scale={own!r}, but had {remembered[name]!r} in the network that this "
                    "transformation was initialised for: call hysteresis_binarize once for each network"
                )
            if scale not in (None, own):
                raise ValueError(
                    f"hysteresis_binarize has scale={scale!r}, but {name} has weight_scale={own!r}: leave scale out, "
                    "and each variable's own scale is used"
                )
        return jax.tree.map(lambda _: scale or own or "layer", variable)

    return jax.tree_util.tree_map_with_path(of_variable, params, is_leaf=lambda x: own_scale(x) is not None)


def _loop(latent: jax.Array, old: jax.Array, t: jax.Array | float) -> jax.Array:
    return jnp.where(latent >= t, 1, jnp.where(latent <= -t, -1, old)).astype(jnp.int8)
