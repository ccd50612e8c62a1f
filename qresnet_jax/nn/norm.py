"""Functions of each channel, as Flax NNX modules: batch norm and shift."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax.nn.carriers import Levels, Stream, Sums, array_of, with_value
from qresnet_jax.nn.recording import recorded
from qresnet_jax.nn.variables import NormParam
from qresnet_jax.ops.batch_norm import normalize_batch
from qresnet_jax.quantize.fixed_point import STREAM_MAX


class Shift(nnx.Module):
    """Adds a trainable number to each channel, as RSign and RPReLU do (Liu et al. 2020, ReActNet, eq. 2 and 4).

    In front of a quantizer it moves the thresholds of each channel, and costs nothing in the shipped network.

    Args:
      features: size of the last axis.
      rngs: not used, as the shifts start at 0.

    Examples:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> Shift(2, rngs=nnx.Rngs(0))(jnp.ones((1, 2))).tolist()
      [[1.0, 1.0]]
    """

    def __init__(self, features: int, *, rngs: nnx.Rngs) -> None:
        self.shift = NormParam(jnp.zeros(features))

    @recorded
    def __call__(self, x: Any) -> Any:
        """Shifts `[N, ..., C]`: `Sums`, `Levels` and a `Stream` to `Sums`, and an array to an array."""
        return _after_affine(x, array_of(x) + self.shift[...])


def _after_affine(x: Any, y: jax.Array) -> Any:
    """Returns `y`, which a function of each channel made of `x`, with what is known of it."""
    if isinstance(x, Stream | Levels):
        return Sums(y, STREAM_MAX + 1 if isinstance(x, Stream) else x.max_level)
    return with_value(x, y)


class BatchNorm(nnx.BatchNorm):
    """A batch norm over all axes but the last, with statistics in float32 (Ioffe and Szegedy 2015).

    Args:
      num_features: size of the last axis.
      momentum: share of the running statistics that is kept at each batch, 0 to 1.
      epsilon: what is added to the variance.
      dtype: dtype of the result.
      rngs: not used, as nothing here is random; the layers of Flax all take it.
    """

    scale: NormParam
    bias: NormParam

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.9,
        epsilon: float = 1e-5,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(num_features, momentum=momentum, epsilon=epsilon, dtype=dtype, rngs=rngs)
        self.scale = NormParam(self.scale[...])
        self.bias = NormParam(self.bias[...])

    @recorded
    def __call__(self, x: Any) -> Any:  # type: ignore[override]  # its mode alone says how to normalise
        """Normalises `[N, ..., C]`: `Sums`, `Levels` and a `Stream` to `Sums`, and an array to an array of `dtype`.

        In training mode it uses the statistics of the batch, and updates the running statistics with them. In
        evaluation mode it uses the running statistics.
        """
        return _after_affine(x, self._normalized(array_of(x)))

    def _normalized(self, x: jax.Array) -> jax.Array:
        if self.use_running_average:
            return super().__call__(x)
        y, mean, var = normalize_batch(x, self.scale[...], self.bias[...], self.epsilon, self.axis_name)
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var
        return y.astype(self.dtype)
