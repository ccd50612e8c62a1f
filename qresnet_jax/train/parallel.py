"""Maps one replica's pure step over all devices, by `shard_map` or `pmap`; each core of a CPU may be a device."""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from qresnet_jax.system.machine import processors
from qresnet_jax.system.placement import place
from qresnet_jax.train.batches import TrainData
from qresnet_jax.train.step import AXIS, EvalStep, TrainState, TrainStep

_IMAGES_PER_CORE = 32  # with fewer, the sums over all devices cost more than another device saves
_DAY = 24 * 60 * 60  # seconds


def cores_as_devices(batch_size: int | None) -> None:
    """Makes each core of this CPU a device of its own, as long as each of them gets enough images.

    XLA divides a convolution over the cores, but not the element-wise work around it. So two devices with half of the
    batch each are faster than one device with two cores. A number of devices that is set in JAX_NUM_CPU_DEVICES or
    XLA_FLAGS is kept. Call this before JAX's first computation.

    Args:
      batch_size: the number of images over all devices; None if each device gets a batch of its own.
    """
    devices: int = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]  # JAX adds its options at run time
    if devices <= 0 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        cores = processors()
        jax.config.update(
            "jax_num_cpu_devices", cores if batch_size is None else devices_for(batch_size, cores)
        )


def devices_for(batch_size: int, cores: int) -> int:
    """Returns the largest number of devices, up to `cores`, that divides a batch evenly into large enough shares."""
    most = max(1, min(cores, batch_size // _IMAGES_PER_CORE))
    return max(n for n in range(1, most + 1) if batch_size % n == 0)


def _compiler_options(mesh: Mesh) -> dict[str, str | int] | None:
    if mesh.devices.flat[0].platform != "cpu":
        return None
    return {
        # Otherwise XLA:CPU deletes optimization barriers early, then fuses whole residual chains into each consumer.
        "xla_disable_hlo_passes": "cse_barrier_expander",
        "xla_cpu_prefer_vector_width": 512,
        # A device that waits for another is not stuck: the process may be suspended, or the machine may be busy.
        "xla_cpu_collective_call_terminate_timeout_seconds": _DAY,
        "xla_cpu_collective_call_warn_stuck_seconds": _DAY,
    }


def device_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Returns a mesh with the single axis `AXIS` over `devices` (all by default)."""
    return Mesh(np.array(jax.devices() if devices is None else devices), (AXIS,))


def is_local(mesh: Mesh) -> bool:
    """Returns whether all devices of a mesh belong to this process."""
    return NamedSharding(mesh, PartitionSpec()).is_fully_addressable


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Copies every array of a tree to every device of a mesh, which may be devices of several processes."""
    return place(tree, mesh, PartitionSpec())


def repeated(step: TrainStep, length: int) -> TrainStep:
    """Returns `(state, data) -> state`, which does `length` steps: under `lax.scan`, or without a loop if there is one."""

    def steps(state: TrainState, data: TrainData) -> TrainState:
        if length == 1:
            return step(state, data)
        return jax.lax.scan(lambda s, _: (step(s, data), None), state, None, length=length)[0]

    return steps


def map_train_step(step: TrainStep, mesh: Mesh, how: str, length: int) -> jax.stages.Wrapped:
    """Compiles `(state, data) -> state` over all devices; each call does `length` steps.

    The state's buffers are donated. The state is replicated, and the data lie on the devices as they say (see `TrainData`).

    Args:
      step: one replica's step, from `make_train_step`.
      mesh: the devices, from `device_mesh`.
      how: "shard_map", or "pmap", which is JAX's older interface; both make the same program.
      length: the number of steps in a call, see `repeated`.
    """

    steps = repeated(step, length)
    if how == "pmap":
        # pmap must map something, so it gets the devices' numbers.
        def mapped(state: TrainState, data: TrainData) -> TrainState:
            is_shared = data.specs(True, False)
            pmapped = jax.pmap(
                lambda _, state, data: steps(state, data),
                axis_name=AXIS,
                in_axes=(0, None, jax.tree.map(lambda x: 0 if x else None, is_shared)),
                out_axes=None,
                devices=list(mesh.devices.flat),
            )
            data = jax.tree.map(
                lambda yes, x: x.reshape(mesh.size, -1, *x.shape[1:]) if yes else x, is_shared, data
            )
            return pmapped(np.arange(mesh.size), state, data)
    else:

        def mapped(state: TrainState, data: TrainData) -> TrainState:
            everywhere = PartitionSpec()
            specs = data.specs(PartitionSpec(AXIS), everywhere)
            return jax.shard_map(
                steps, mesh=mesh, in_specs=(everywhere, specs), out_specs=everywhere, check_vma=False
            )(state, data)

    return jax.jit(mapped, donate_argnums=0, compiler_options=_compiler_options(mesh))


def map_eval_step(step: EvalStep, mesh: Mesh) -> EvalStep:
    """Compiles `(params, model_state, pixels, mean) -> logits` over all devices.

    Args:
      step: one replica's step, from `make_eval_step`. Pixels and logits are divided over the replicas.
      mesh: the devices, from `device_mesh`; their number must divide the number of images.
    """
    everywhere, shared = PartitionSpec(), PartitionSpec(AXIS)
    mapped = jax.shard_map(
        step,
        mesh=mesh,
        in_specs=(everywhere, everywhere, shared, everywhere),
        out_specs=shared,
        check_vma=False,
    )
    return jax.jit(mapped, compiler_options=_compiler_options(mesh))
