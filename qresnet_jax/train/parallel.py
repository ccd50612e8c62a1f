"""From a replica's pure step to all devices, by `shard_map` or `pmap`."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qresnet_jax.train.step import AXIS


def _compiler_options(mesh: Mesh) -> dict | None:
    if mesh.devices.flat[0].platform != "cpu":
        return None
    # By default XLA:CPU deletes optimization barriers early and then fuses whole residual chains into each consumer.
    return {"xla_disable_hlo_passes": "cse_barrier_expander", "xla_cpu_prefer_vector_width": 512}


def device_mesh(devices=None) -> Mesh:
    """A mesh of one axis over `devices` (all by default)."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def replicate(tree, mesh: Mesh):
    """A copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def map_train_step(step: Callable, mesh: Mesh, how: str, length: int) -> Callable:
    """`(state, data) -> state` over all devices, `length` steps a call.

    The state is donated. Everything is replicated; each replica takes its share of a batch by its index.

    Args:
      step: one replica's step, from `make_train_step`.
      mesh: from `device_mesh`.
      how: "shard_map", or "pmap", jax's older interface; both make the same program.
      length: steps a call, under `lax.scan`; 1 has no loop around it.
    """

    def steps(state, data):
        if length == 1:
            return step(state, data)
        return jax.lax.scan(lambda s, _: (step(s, data), None), state, None, length=length)[0]

    if how == "pmap":
        pmapped = jax.pmap(
            lambda _, state, data: steps(state, data),
            axis_name=AXIS,
            in_axes=(0, None, None),
            out_axes=None,
            devices=list(mesh.devices.flat),
        )

        # pmap must map something: here the devices' numbers.
        def mapped(state, data):
            return pmapped(np.arange(mesh.size), state, data)
    else:
        everywhere = PartitionSpec()
        mapped = jax.shard_map(steps, mesh=mesh, in_specs=everywhere, out_specs=everywhere, check_vma=False)
    return jax.jit(mapped, donate_argnums=0, compiler_options=_compiler_options(mesh))


def map_eval_step(step: Callable, mesh: Mesh) -> Callable:
    """`(params, model_state, pixels, labels, mean) -> sums`; pixels and labels are divided over the devices."""
    everywhere, shared = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(everywhere, everywhere, shared, shared, everywhere),
        out_specs=everywhere,
        check_vma=False,
    )
    return jax.jit(mapped, compiler_options=_compiler_options(mesh))
