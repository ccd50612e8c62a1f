"""Trains a network on random images, for the benchmarks that measure training."""

import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qresnet_jax import create_model
from qresnet_jax.data.order import epoch_order, steps_per_epoch
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train import parallel
from qresnet_jax.train.batches import ResidentData
from qresnet_jax.train.step import AXIS, init_state, make_train_step

SIZE = 32  # height and width of the images


class Training:
    """A training run of `config`, with as many steps in a dispatch as the command takes on an accelerator.

    Args:
      config: the whole config.
      images: the number of random 32x32x3 images, which lie on the device.
    """

    def __init__(self, config, images: int):
        self.steps = steps_per_epoch(images, config.batch_size)
        self.length = min(self.steps, config.steps_per_dispatch or config.log_every_steps)
        total = config.num_epochs * self.steps
        model = create_model(config.model, rngs=nnx.Rngs(config.seed), dtype=config.dtype)
        model.set_attributes(BatchNorm, axis_name=AXIS)
        graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
        tx = optim.optimizer(config.optim, params, total, self.steps)
        mesh = parallel.device_mesh()
        step = make_train_step(
            graphdef, tx, config, num_shards=mesh.size, steps_per_epoch=self.steps, total_steps=total
        )
        self.dispatch = parallel.map_train_step(step, mesh, config.parallel, self.length)
        rng = np.random.default_rng(0)
        pixels = jnp.asarray(rng.integers(0, 256, (images, SIZE, SIZE, 3)), jnp.uint8)
        labels = jnp.asarray(rng.integers(0, 10, images), jnp.int32)
        order = epoch_order(0, 0, images)
        data = ResidentData(pixels, labels, order, jnp.full(3, 127.5), jax.random.key(1))
        self.data = parallel.replicate(data, mesh)
        self.state = parallel.replicate(init_state(params, model_state, tx), mesh)

    def run(self) -> float:
        """Runs one dispatch to its end, and returns its seconds."""
        start = time.perf_counter()
        self.state = jax.block_until_ready(self.dispatch(self.state, self.data))
        return time.perf_counter() - start

    def epoch(self) -> float:
        """Runs an epoch and returns its seconds. It runs whole dispatches, and counts the last one in part."""
        whole = [self.run() for _ in range(-(-self.steps // self.length))]
        return sum(whole) * self.steps / (len(whole) * self.length)
