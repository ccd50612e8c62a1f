"""Puts arrays on the devices of a mesh, and fetches them, also where other processes have some of the devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec


def place(tree: Any, mesh: Mesh, spec: PartitionSpec) -> Any:
    """Returns a tree of arrays with its arrays on the devices of a mesh.

    All processes whose devices are in the mesh call this with the same arrays; each copies what its devices hold.
    `jax.device_put` would compare the arrays between the processes, which takes longer than copying them.

    Args:
      tree: arrays of NumPy or JAX, also PRNG keys.
      mesh: the devices.
      spec: how each array is divided over the mesh; `PartitionSpec()` copies it to every device.
    """
    sharding = NamedSharding(mesh, spec)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def one(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(one(jax.random.key_data(x)), impl=jax.random.key_impl(x))
        value = np.asarray(x)
        return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])

    return jax.tree.map(one, tree)


def fetch(array: jax.Array) -> np.ndarray:
    """Returns a whole array, which may be divided over devices of several processes; then all of them call this."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True))
