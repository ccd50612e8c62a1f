"""The JAX engine: an `IntegerNetwork` as one jitted function, exact to the bit on processors, GPUs and TPUs.

On processors convolutions count bits. Elsewhere they are matrix products, which such devices are built for: of bfloat16
with float32 sums, where every number is an integer that the type holds.
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

# So many images at once: the last batch is filled up. On processors more gain nothing and need more memory.
PROCESSOR_BATCH = 16
ACCELERATOR_BATCH = 256
_ONE_BY_ONE = 8  # so few take less time alone than a batch that is filled up

_compiled: weakref.WeakKeyDictionary[IntegerNetwork, Callable[[np.ndarray], jax.Array]]
_compiled = weakref.WeakKeyDictionary()


def logits(network: IntegerNetwork, images: np.ndarray) -> np.ndarray:
    """Classifies; compiles for some seconds at a network's first few images and at its first many.

    Args:
      network: from `fold` or a packed file.
      images: uint8 `[N, H, W, C]`.

    Returns:
      int32 `[N, classes]`, as of `reference.logits`.

    Raises:
      ValueError: images of another shape or dtype.
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
        if running is not None:  # while the device works on the next batch
            parts.append(np.asarray(running))
        running = result
    if running is not None:
        parts.append(np.asarray(running))
    return np.concatenate(parts)[: len(images)]


def make_logits(network: IntegerNetwork) -> Callable[[jax.Array], jax.Array]:
    """A jitted function of uint8 images `[N, H, W, C]`, N above 0, that gives int32 logits `[N, classes]`.

    It compiles for every shape of images, can stand inside other jitted functions, and `jax.export` takes it, also with
    a symbolic N. It raises a ValueError for images of another shape or dtype.
    """
    return jax.jit(functools.partial(_trace, network))


def _jitted(network: IntegerNetwork) -> Callable[[np.ndarray], jax.Array]:
    if network not in _compiled:
        known = weakref.ref(network)  # a strong one in the value would keep the key for ever
        # Not in `make_logits`: a function with options of its own cannot stand inside others.
        options = {"xla_cpu_prefer_vector_width": 512} if jax.default_backend() == "cpu" else None
        _compiled[network] = jax.jit(
            lambda images: _trace(cast(IntegerNetwork, known()), images), compiler_options=options
        )
    return _compiled[network]


def _trace(network: IntegerNetwork, images: jax.Array) -> jax.Array:
    reference.check_images(network, images)
    if images.shape[0] == 0:
        raise ValueError("images must be at least one; logits() takes none too")
    trace = functools.partial(jax_trace.logits, network)
    processor, accelerator = (functools.partial(trace, processor=value) for value in (True, False))
    return jax.lax.platform_dependent(images, cpu=processor, default=accelerator)
