"""Builds the training step of a config, for the benchmarks of training: to run on random images, or only to compile."""

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
from qresnet_jax.train.network import Network
from qresnet_jax.train.step import AXIS, init_state, make_train_step

SIZE = 32  # height and width of the images


class Training:
    """A training run of `config`, with as many steps in a dispatch as the command takes on an accelerator.

    Args:
      config: the whole config.
      images: the number of random 32x32x3 images, which lie on the device.
      devices: the devices to use; all by default.
    """

    def __init__(self, config, images: int, devices=None):
        self.steps = steps_per_epoch(images, config.batch_size)
        self.length = min(self.steps, config.steps_per_dispatch or config.log_every_steps)
        mesh = parallel.device_mesh(devices)
        model = create_model(config.model, rngs=nnx.Rngs(config.seed), dtype=config.dtype)
        self.dispatch, params, model_state, tx = _program(config, model, mesh, self.steps, self.length)
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


def compile_step(config, size: int = SIZE, devices=None) -> jax.stages.Compiled:
    """Compiles one training step on a set of one batch, without making any array of that size.

    The program is optimized as usual, but its machine code is not, which changes neither its arrays nor its operations.

    Args:
      config: the whole config.
      size: the height and width of the images.
      devices: the devices to compile for; all by default.
    """
    mesh = parallel.device_mesh(devices)
    model = nnx.eval_shape(lambda: create_model(config.model, rngs=nnx.Rngs(0), dtype=config.dtype))
    program, params, model_state, tx = _program(config, model, mesh, steps=1, length=1)
    state = jax.eval_shape(lambda *of_model: init_state(*of_model, tx), params, model_state)
    images, channels = config.batch_size, config.model.in_channels
    data = ResidentData(
        jax.ShapeDtypeStruct((images, size, size, channels), jnp.uint8),
        jax.ShapeDtypeStruct((images,), jnp.int32),
        jax.ShapeDtypeStruct((images,), jnp.int32),
        jax.ShapeDtypeStruct((channels,), jnp.float32),
        jax.eval_shape(lambda: jax.random.key(0)),
    )
    quickly = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    return program.lower(state, data).compile(compiler_options=quickly if on_cpu else None)


def _program(config, model, mesh, steps, length):
    """Returns the compiled function of `length` steps, the parameters, the other variables, and the optimizer."""
    if config.model.sync_bn:
        model.set_attributes(BatchNorm, axis_name=AXIS)
    graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
    total = config.num_epochs * steps
    tx = optim.optimizer(config.optim, params, total, steps)
    step = make_train_step(
        Network(graphdef), tx, config, num_shards=mesh.size, steps_per_epoch=steps, total_steps=total
    )
    return parallel.map_train_step(step, mesh, config.parallel, length), params, model_state, tx
