"""A state with a loss or an array that is not finite is refused, and the message names the step."""

import jax.numpy as jnp
import pytest

from qresnet_jax.errors import DivergedError
from qresnet_jax.train.metrics.finite import check_finite
from qresnet_jax.train.step import TrainState

GOOD = TrainState(
    step=jnp.int32(7),
    params={"kernel": jnp.ones(3), "alpha": jnp.ones([])},
    model_state={"mean": jnp.zeros(2)},
    opt_state=(jnp.zeros(2), jnp.int32(7)),
    sums={},
    first_bad_step=jnp.int32(-1),
    walk={},
)


def test_a_finite_state_passes():
    check_finite(GOOD)


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("where", ["params", "model_state", "opt_state"])
def test_an_array_that_is_not_finite_is_laid_to_the_last_step(where, bad):
    changed = (jnp.array([0.0, bad]), jnp.int32(7)) if where == "opt_state" else {"x": jnp.array([0.0, bad])}
    with pytest.raises(
        DivergedError, match="the parameters are not finite at step 6: lower config.optim.lear"
    ):
        check_finite(GOOD._replace(**{where: changed}))


def test_a_bad_loss_is_named_by_the_step_that_saw_it_first():
    with pytest.raises(DivergedError, match="the loss is not finite at step 3: "):
        check_finite(GOOD._replace(first_bad_step=jnp.int32(3)))
