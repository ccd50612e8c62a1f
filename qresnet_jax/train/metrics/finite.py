"""Refuses a training state that is no longer finite."""

from typing import Any

import jax
import jax.numpy as jnp

from qresnet_jax.errors import DivergedError
from qresnet_jax.train.step import TrainState


def check_finite(state: TrainState) -> None:
    """Refuses a state whose loss or parameters are no longer finite.

    Raises:
      DivergedError: the loss or a parameter is not finite; the message names the step.
    """
    bad = int(state.first_bad_step)
    what = "loss is"
    if bad < 0 and not _all_finite((state.params, state.model_state, state.opt_state)):
        bad, what = int(state.step) - 1, "parameters are"
    if bad >= 0:
        raise DivergedError(
            f"the {what} not finite at step {bad}: lower config.optim.learning_rate, or set "
            "config.optim.gradient_clip, a smaller one if it is set"
        )


@jax.jit
def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]))
