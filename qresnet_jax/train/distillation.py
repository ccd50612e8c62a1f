"""Distillation: a trained network, the teacher, says beside the labels what a network shall answer (Hinton et al. 2015)."""

import dataclasses
import hashlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from qresnet_jax.pixels import normalize
from qresnet_jax.train.batches import TrainData
from qresnet_jax.train.network import merge


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Teacher:
    """A trained network that teaches another one. It is a pytree of its arrays."""

    graphdef: nnx.GraphDef[Any] = dataclasses.field(metadata={"static": True})  # in evaluation mode
    params: nnx.State
    model_state: nnx.State
    mean: jax.Array  # the pixel means that it was trained with, float32 [C]

    def logits(self, pixels: jax.Array) -> jax.Array:
        """Returns its logits, float32 `[N, classes]`, without gradients.

        Args:
          pixels: uint8 `[N, H, W, C]`, cropped and flipped as the network that learns sees them.
        """
        model = merge(self.graphdef, self.params, self.model_state)
        return jax.lax.stop_gradient(model(normalize(pixels, self.mean)))

    def checksum(self) -> str:
        """Returns the SHA-256 of its arrays, in hexadecimal."""
        digest = hashlib.sha256()
        for array in jax.tree.leaves(jax.device_get(self)):
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


class TaughtData(NamedTuple):
    """The data of a run that has a teacher: what its steps read is also the teacher's variables (see `TrainData`)."""

    data: TrainData
    teacher: Teacher

    @property
    def mean(self) -> jax.Array:
        """The pixel means of the run itself, float32 `[C]`."""
        return self.data.mean

    @property
    def key(self) -> jax.Array:
        """The PRNG key `[]` of the augmentation."""
        return self.data.key

    def share(
        self, step_in_epoch: jax.Array, batch_size: int, shard: jax.Array, num_shards: int
    ) -> tuple[jax.Array, jax.Array]:
        """Returns one device's share of a batch."""
        return self.data.share(step_in_epoch, batch_size, shard, num_shards)

    def specs(self, shared: Any, everywhere: Any) -> Any:
        """Returns where the arrays lie; those of the teacher are whole on each device."""
        return TaughtData(self.data.specs(shared, everywhere), everywhere)


def distillation_loss(logits: jax.Array, taught: jax.Array, temperature: float | jax.Array) -> jax.Array:
    """Returns `T**2` times the mean Kullback-Leibler divergence of `softmax(logits / T)` from `softmax(taught / T)`.

    The factor keeps the gradients as large as those of the labels' loss (Hinton et al. 2015, section 2).

    Args:
      logits: those of the network that learns, float32 `[N, classes]`.
      taught: those of the teacher, likewise.
      temperature: T > 0; the larger it is, the more the improbable classes count.

    Returns:
      The loss in nats, float32 `[]`.
    """
    got, wanted = (jax.nn.log_softmax(x / temperature) for x in (logits, taught))
    return temperature**2 * jnp.mean(optax.losses.kl_divergence_with_log_targets(got, wanted))
