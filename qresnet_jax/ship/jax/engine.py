"""The JAX engine, which runs an `IntegerNetwork` as one jitted function, exact to the bit on CPUs, GPUs and TPUs.

On CPUs convolutions count bits. On other devices they are matrix products of bfloat16 with float32 sums,
which such devices are built for; every number is an integer that its type holds exactly.
"""

import functools
import weakref
from collections.abc import Callable
from typing import cast

import jax
import numpy as np

from qresnet_jax.ship import reference
from qresnet_jax.ship.jax import trace as jax_trace
from qresnet_jax.ship.network import IntegerNetwork

# How many images are computed at once; the last batch is padded. On CPUs more are not faster, and need more memory.
PROCESSOR_BATCH = 16
ACCELERATOR_BATCH = 256
_ONE_BY_ONE = 8  # up to so many images are computed one by one, which takes less time than a padded batch

_compiled: weakref.WeakKeyDictionary[IntegerNetwork, Callable[[np.ndarray], jax.Array]]
_compiled = weakref.WeakKeyDictionary()


def logits(network: IntegerNetwork, images: np.ndarray) -> np.ndarray:
    """Computes logits. The first call for a network compiles, which takes seconds.

    A network is compiled once for single images, which serve up to 8 images, and once for whole batches.

    Args:
      network: a network from `fold` or from a packed file.
      images: uint8 `[N, H, W, C]`.

    Returns:
      int32 `[N, classes]`; times `network.logit_scale` they are the logits of training.

    Raises:
      ValueError: if the images do not have the network's shape, or are not uint8.
    """
    reference.check_images(network, images)
    run = _jitted(network)
    largest = PROCESSOR_BATCH if jax.default_backend() == "cpu" else ACCELERATOR_BATCH
    batch = 1 if len(images) <= _ONE_BY_ONE else largest
    parts, running = [np.zeros((0, network.classes), np.int32)], None
    for i in range(0, len(images), batch):
        part = images[i : i + batch]
        missing = batch - len(part)
        filled = np.pad(part, ((0, missing), (0, 0), (0, 0), (0, 0))) if missing else part
        result = run(filled)
        if running is not None:  # fetched while the device works on the next batch
            parts.append(np.asarray(running))
        running = result
    if running is not None:
        parts.append(np.asarray(running))
    return np.concatenate(parts)[: len(images)]


def make_logits(network: IntegerNetwork) -> Callable[[jax.Array], jax.Array]:
    """Returns a jitted function from uint8 images `[N, H, W, C]`, N above 0, to int32 logits `[N, classes]`.

    The function is compiled for every shape of images. It can be called inside other jitted functions, and
    `jax.export` accepts it, also with a symbolic N. It raises a ValueError if the images do not have the
    network's shape, or are not uint8.
    """
    return jax.jit(functools.partial(_trace, network))


def _jitted(network: IntegerNetwork) -> Callable[[np.ndarray], jax.Array]:
    if network not in _compiled:
        known = weakref.ref(network)  # a strong reference in the value would keep the key alive for ever
        # `make_logits` has no options: a function with compiler options cannot be called inside others.
        options = {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else None
        _compiled[network] = jax.jit(
            lambda images: _trace(cast(IntegerNetwork, known()), images), compiler_options=options
        )
    return _compiled[network]


def _trace(network: IntegerNetwork, images: jax.Array) -> jax.Array:
    reference.check_images(network, images)
    if images.shape[0] == 0:
        raise ValueError(
            "images must be at least one, got none; only qresnet_jax.ship.jax.engine.logits takes none"
        )
    trace = functools.partial(jax_trace.logits, network)
    processor, accelerator = (functools.partial(trace, processor=value) for value in (True, False))
    return jax.lax.platform_dependent(images, cpu=processor, default=accelerator)
