"""Dropout, which is nothing once a network is trained."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from qresnet_jax.nn.carriers import Levels, Stream, array_of, with_value
from qresnet_jax.nn.recording import recorded
from qresnet_jax.nn.variables import Draw
from qresnet_jax.quantize.fixed_point import round_to_grid


class Dropout(nnx.Module):
    """Sets random activations to 0 in training, and divides the others by their share (Srivastava et al. 2014).

    The training step sets the number of the draw. In a training of your own it counts the calls.

    Args:
      rate: the share of activations that become 0, from 0 to less than 1.
      rngs: source of the `dropout` key, or else of the default one.

    Raises:
      ValueError: if the rate is not possible.

    Examples:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> sorted(set(Dropout(0.5, rngs=nnx.Rngs(0))(jnp.ones((4, 8))).ravel().tolist()))
      [0.0, 2.0]
    """

    def __init__(self, rate: float, *, rngs: nnx.Rngs) -> None:
        if not 0 <= rate < 1:
            raise ValueError(f"the rate of Dropout must be from 0 to less than 1, got {rate}")
        self.rate, self.deterministic = rate, False
        self.seed = int(jax.random.bits(rngs.dropout(), dtype="uint16"))
        self.draw = Draw(jnp.float32(0))

    def set_view(self, deterministic: bool | None = None) -> None:
        """Sets the mode, as `nnx.view` does for all modules.

        Args:
          deterministic: whether nothing is dropped; None leaves the mode as it is.
        """
        if deterministic is not None:
            self.deterministic = deterministic

    @recorded
    def __call__(self, x: Any) -> Any:
        """Drops activations of sums, levels, a stream or an array, and returns the same kind.

        Of levels, not the integers but their step is divided. In evaluation mode it returns `x`.
        """
        if self.deterministic or self.rate == 0:
            return x
        key = jax.random.fold_in(jax.random.key(self.seed), self.draw[...].astype(jnp.uint32))
        self.draw[...] = self.draw[...] + 1
        share = 1 - self.rate
        values = array_of(x)
        dropped = jnp.where(jax.random.bernoulli(key, share, values.shape), values / share, 0)
        if isinstance(x, Levels):
            return Levels(dropped, x.step / share, x.max_level)
        if isinstance(x, Stream):
            return Stream(round_to_grid(dropped, x.fraction_bits), x.fraction_bits)
        return with_value(x, dropped)
