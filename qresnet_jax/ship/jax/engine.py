"""The JAX engine, which runs an `IntegerNetwork` as one jitted function, exact to the bit on CPUs, GPUs and TPUs.

On CPUs convolutions count bits. On other devices they are matrix products of bfloat16 with float32 sums,
which such devices are built for; every number is an integer that its type holds exactly.
"""

import functools
import os
import weakref
from collections.abc import Callable, Sequence
from typing import cast

import jax
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from qresnet_jax.ship import reference
from qresnet_jax.ship.jax import trace as jax_trace
from qresnet_jax.ship.jax.lower import Constants, Program, lower
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.system.placement import fetch, place

# How many images are computed at once; the last batch is padded. On CPUs more are not faster, and need more memory.
PROCESSOR_BATCH = 16
ACCELERATOR_BATCH = 256
_ONE_BY_ONE = 8  # up to so many images are computed one by one, which takes less time than a padded batch

Run = Callable[[np.ndarray], jax.Array]
_compiled: weakref.WeakKeyDictionary[IntegerNetwork, Run] = weakref.WeakKeyDictionary()
_owner: int | None = None  # the process that has computed with JAX, whose threads a forked one lacks


def logits(network: IntegerNetwork, images: np.ndarray) -> np.ndarray:
    """Computes logits. The first call for a network compiles, which takes seconds.

    A network is compiled once for single images, which serve up to 8 images, and once for whole batches. Its arrays
    are constants of the compiled function, which saves about a tenth of the time.

    Args:
      network: a network from `fold` or from a packed file.
      images: uint8 `[N, H, W, C]`.

    Returns:
      int32 `[N, classes]`; times `network.logit_scale` they are the logits of training.

    Raises:
      ValueError: if the images do not have the network's shape, or are not uint8.
      RuntimeError: if this process was forked from one that has computed with JAX.
    """
    global _owner
    if _owner not in (None, os.getpid()):
        # JAX would wait for ever for threads that only the other process has.
        raise RuntimeError(
            "JAX cannot compute in a process that was forked from one in which it has computed: start processes by "
            "multiprocessing's 'spawn', or take engine='c' or engine='numpy'"
        )
    _owner = os.getpid()
    if network not in _compiled:
        known = weakref.ref(network)  # a strong reference in the value would keep the key alive for ever
        _compiled[network] = jax.jit(
            lambda images: _trace(*lower(cast(IntegerNetwork, known())), images),
            compiler_options=_options(jax.default_backend()),
        )
    batch = 1 if len(images) <= _ONE_BY_ONE else _batch(jax.default_backend())
    return _logits(_compiled[network], network, images, batch)


def on_mesh(network: IntegerNetwork, mesh: Mesh) -> Callable[[np.ndarray], np.ndarray]:
    """Returns a function that computes logits of a network that is still being trained, on several devices.

    The network's arrays are arguments of the compiled function. So the networks of a whole training, and all others
    of the same architecture, need only one compilation.

    Args:
      network: as for `logits`.
      mesh: the devices, along a single axis; each computes its share of the images. If they belong to several
        processes, all of these call the function with the same images, and get the same result.

    Returns:
      A function from images to what `logits` returns of them.
    """
    platform = mesh.devices.flat[0].platform
    program, constants = lower(network)
    constants = place(constants, mesh, PartitionSpec())
    compiled = _run_on_mesh(mesh, platform)

    def run(images: np.ndarray) -> jax.Array:
        return compiled(program, constants, place(images, mesh, PartitionSpec(mesh.axis_names)))

    return lambda images: _logits(run, network, images, mesh.size * _batch(platform))


def make_logits(network: IntegerNetwork) -> Callable[[jax.Array], jax.Array]:
    """Returns a jitted function from uint8 images `[N, H, W, C]`, N above 0, to int32 logits `[N, classes]`.

    The function is compiled for every shape of images. It can be called inside other jitted functions, and
    `jax.export` accepts it, also with a symbolic N. It raises a ValueError if the images do not have the
    network's shape, or are not uint8.
    """
    # This has no compiler options: a function with such options cannot be called inside others.
    return jax.jit(functools.partial(_trace, *lower(network)))


@functools.cache
def _run_on_mesh(mesh: Mesh, platform: str) -> Callable[[Program, list[Constants], jax.Array], jax.Array]:
    everywhere, shared = PartitionSpec(), PartitionSpec(mesh.axis_names)

    def run(program: Program, constants: list[Constants], images: jax.Array) -> jax.Array:
        trace = functools.partial(_trace, program)
        mapped = jax.shard_map(
            trace, mesh=mesh, in_specs=(everywhere, shared), out_specs=shared, check_vma=False
        )
        return mapped(constants, images)

    return jax.jit(run, static_argnums=0, compiler_options=_options(platform))


def _logits(run: Run, network: IntegerNetwork, images: np.ndarray, batch: int) -> np.ndarray:
    reference.check_images(network.image_shape, images, network.least_size)
    if len(images) == 0:
        return np.zeros((0, network.classes), np.int32)
    return in_batches(run, images, batch)


def in_batches(run: Run, images: np.ndarray, batch: int) -> np.ndarray:
    """Returns the results of `run` for batches of one size, joined; the last batch is padded with black images.

    Args:
      run: a jitted function from `batch` images to as many results. It is compiled only once.
      images: uint8 `[N, H, W, C]`, N above 0.
      batch: the number of images in a batch.
    """
    parts: list[np.ndarray] = []
    running: jax.Array | None = None
    for i in range(0, len(images), batch):
        part = images[i : i + batch]
        missing = batch - len(part)
        filled = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else part
        result = run(filled)
        if running is not None:  # fetched while the device works on the next batch
            parts.append(fetch(running))
        running = result
    assert running is not None  # there are images
    parts.append(fetch(running))
    return np.concatenate(parts)[: len(images)]


def _batch(platform: str) -> int:
    return PROCESSOR_BATCH if platform == "cpu" else ACCELERATOR_BATCH


def _options(platform: str) -> dict[str, int] | None:
    return {"xla_cpu_prefer_vector_width": 512} if platform == "cpu" else None


def _trace(program: Program, constants: Sequence[Constants], images: jax.Array) -> jax.Array:
    reference.check_images(program.image_shape, images, program.least_size)
    if images.shape[0] == 0:
        raise ValueError(
            "images must be at least one, got none; only qresnet_jax.ship.jax.engine.logits takes none"
        )
    trace = functools.partial(jax_trace.logits, program)
    processor, accelerator = (functools.partial(trace, processor=value) for value in (True, False))
    return jax.lax.platform_dependent(constants, images, cpu=processor, default=accelerator)
