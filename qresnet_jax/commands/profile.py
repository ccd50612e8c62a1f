"""`--mode=profile`: shows what the time, the memory and the FLOPs of a training step are spent on."""

import contextlib
import datetime
import json
import logging
import os
import pathlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import UserError
from qresnet_jax.ship.costs import totals
from qresnet_jax.system.files import make_directory, write_all
from qresnet_jax.system.hlo import Collective, collectives, module_name, sources
from qresnet_jax.system.tables import aligned
from qresnet_jax.system.trace import Operation, read_trace
from qresnet_jax.train.checkpoints.workdir import claim_workdir
from qresnet_jax.train.feed import Feed
from qresnet_jax.train.loop import Training
from qresnet_jax.train.parallel import cores_as_devices, device_mesh, replicate
from qresnet_jax.train.step import AXIS, TrainState, init_state

log = logging.getLogger("qresnet_jax")

SHOWN = 15  # operations in the table; the file has all
WARM_UP = 3  # steps
_LARGEST_PRODUCT = 8192  # rows and columns
_SECONDS_OF_PRODUCT = 0.05  # one that takes less is repeated with larger matrices

Result = dict[str, Any]


def profile(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Result:
    """Profiles the training step of a config, logs a summary, and writes the trace and `profile.json`.

    The step trains from random weights on the config's data set. A run in `workdir` is neither read nor changed. After
    the steps that compile and warm up, the same number of steps runs without the profiler, for its speed, and then with
    it, for the operations.

    Args:
      config: see `qresnet_jax.config.default_config`; `profile.steps` is the number of steps to measure.
      workdir: the results go to its directory `profile`.
      devices: the devices to use; all by default.

    Returns:
      What `profile.json` holds:

      - `device`, `devices`, `batch_size`, `steps_in_a_dispatch`, `steps`, `seconds_a_step`, `images_per_second`;
      - `seconds_for_images`: for how long a step waits for its images on the host, while the devices may still compute;
      - `operations`: for each `name`, `source`, `share` of the time of all operations, and `calls` and `seconds` for a
        step on a device;
      - `memory`: the bytes on a device of the program's `arguments`, of its `outputs`, of those that take the place of
        arguments (`in_place`), of `temporaries` and `code`, and the `peak` that the device reports, or None;
      - `collectives`: of a step, their `count`, and the `bytes` that each device gives to them;
      - `flops`: of a step on all devices, `compiled` as XLA counts them and `products` as 3 x 2 x MACs;
      - `flops_per_second`: `reached`, which is `products` over the time, and `peak`, of `peak_dtype` matrices with
        `peak_size` rows and columns on each device;
      - `trace`: the file for Perfetto, relative to `workdir`.

    Raises:
      UserError: the config, the data set or the workdir cannot be used, or another process trains in the workdir.
    """
    cores_as_devices(config.batch_size)
    configs.validate(config)
    mesh = device_mesh(devices)
    configs.validate_devices(config, mesh.size)
    with claim_workdir(workdir) as directory:
        folder = directory / "profile"
        try:
            make_directory(folder)
        except OSError as error:
            raise UserError(f"{folder} cannot be made ({error.strerror}): give another --workdir") from error
        run = Training(config, directory, mesh)
        log.info(
            "profiling %d steps on %d x %s", config.profile.steps, mesh.size, mesh.devices.flat[0].device_kind
        )
        result = _measure(run, folder)
        write_all({folder / "profile.json": (json.dumps(result, indent=2) + "\n").encode()})
    log.info("\n%s\n", as_text(result))
    log.info(
        "wrote %s; open %s at ui.perfetto.dev, or run xprof --logdir=%s",
        folder / "profile.json",
        directory / result["trace"],
        folder,
    )
    return result


def _measure(run: Training, folder: pathlib.Path) -> Result:
    config, mesh = run.config, run.mesh
    length = min(run.most_steps, run.steps_per_epoch, config.profile.steps)
    dispatches = -(-config.profile.steps // length)
    with contextlib.closing(run.feed()) as feed:
        steps = _Steps(run, feed, length)
        steps(-(-WARM_UP // length))
        steps.waited = 0.0
        seconds = _seconds(lambda: steps(dispatches)) / (dispatches * length)
        waited = steps.waited / (dispatches * length)
        statistics = mesh.devices.flat[0].memory_stats() or {}
        peak, size = _measured_peak(mesh)
        trace = _trace(lambda: steps(dispatches), folder)
    program = steps.program
    text, memory, costs = program.as_text(), program.memory_analysis(), program.cost_analysis()
    assert text and memory and costs  # every platform of JAX has them
    operations = read_trace(trace, module_name(text))
    if not operations:
        log.warning(
            "the trace names no operations: on an NVIDIA GPU, the driver must allow all users to profile "
            "(NVreg_RestrictProfilingToAdminUsers=0)"
        )
    products = 3 * 2 * totals(run.layers).macs * config.batch_size
    return {
        "device": mesh.devices.flat[0].device_kind,
        "devices": mesh.size,
        "batch_size": config.batch_size,
        "steps_in_a_dispatch": length,
        "steps": dispatches * length,
        "seconds_a_step": seconds,
        "seconds_for_images": waited,
        "images_per_second": config.batch_size / seconds,
        "operations": _rows(operations, sources(text), dispatches * length * mesh.size),
        "memory": {
            "arguments": memory.argument_size_in_bytes,
            "outputs": memory.output_size_in_bytes,
            "in_place": memory.alias_size_in_bytes,
            "temporaries": memory.temp_size_in_bytes,
            "code": memory.generated_code_size_in_bytes,
            "peak": statistics.get("peak_bytes_in_use"),
        },
        "collectives": _sums_of(collectives(text) if mesh.size > 1 else []),
        # XLA counts the FLOPs of one device, and those of a loop once, whatever the number of its steps.
        "flops": {"compiled": costs["flops"] * mesh.size, "products": products},
        "flops_per_second": {
            "reached": products / seconds,
            "peak": peak,
            "peak_dtype": "float32",
            "peak_size": size,
        },
        "trace": str(next(trace.parent.glob("*.trace.json.gz")).relative_to(folder.parent)),
    }


class _Steps:
    """Does training steps, `length` in each dispatch; `waited` sums the seconds in which the feed was asked for images."""

    def __init__(self, run: Training, feed: Feed, length: int) -> None:
        self._run, self._feed, self._length = run, feed, length
        self._state: TrainState = replicate(init_state(run.params, run.model_state, run.tx), run.mesh)
        self._step, self.waited = 0, 0.0
        self.program = run.programs()(length).lower(self._state, run.data(feed, 0)).compile()

    def __call__(self, dispatches: int) -> None:
        """Does that many dispatches, and waits for their end."""
        for _ in range(dispatches):
            with jax.profiler.StepTraceAnnotation("train", step_num=self._step):
                start = time.perf_counter()
                # A short run is done several times.
                data = self._run.data(self._feed, self._step % self._run.total_steps)
                self.waited += time.perf_counter() - start
                self._state = self.program(self._state, data)
            self._step += self._length
        jax.block_until_ready(self._state)


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _trace(work: Callable[[], None], folder: pathlib.Path) -> pathlib.Path:
    """Does some work under the profiler, and returns the trace `*.xplane.pb`, in a directory of its own in `folder`."""
    options = jax.profiler.ProfileOptions()
    options.session_id = f"{datetime.datetime.now():%Y-%m-%d_%H.%M.%S.%f}"
    options.python_tracer_level = 0  # else each call of a Python function is in the trace
    with jax.profiler.trace(folder, profiler_options=options):
        work()
    (written,) = folder.rglob(f"{options.session_id}/*.xplane.pb")
    return written


def _measured_peak(mesh: Mesh) -> tuple[float, int]:
    """Measures products of float32 matrices on all devices at once, in JAX's default precision.

    Returns:
      The FLOP/s of all devices together, and the number of rows and columns of the matrices.
    """
    shared = NamedSharding(mesh, PartitionSpec(AXIS))
    product = jax.jit(lambda a: a @ a, out_shardings=shared)
    size = 256
    while True:
        matrices = jax.device_put(jnp.full((mesh.size, size, size), 1 / size, jnp.float32), shared)
        multiply = partial(_wait_for, product, matrices)
        multiply()  # compiles
        seconds = min(_seconds(multiply) for _ in range(5))
        if seconds >= _SECONDS_OF_PRODUCT or size == _LARGEST_PRODUCT:
            return 2 * size**3 * mesh.size / seconds, size
        size *= 2


def _wait_for(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> None:
    function(x).block_until_ready()


def _sums_of(found: list[Collective]) -> Result:
    return {"count": len(found), "bytes": sum(one.nbytes for one in found)}


def _rows(operations: list[Operation], source_of: dict[str, str], times: int) -> list[Result]:
    whole = sum(operation.seconds for operation in operations)
    return [
        {
            "name": operation.name,
            "source": source_of.get(operation.name, ""),
            "share": operation.seconds / whole,
            "calls": operation.executions / times,
            "seconds": operation.seconds / times,
        }
        for operation in operations
    ]


def as_text(result: Result) -> str:
    """Returns the result of `profile` as two tables for the console: the operations, then what else was measured."""
    shown, rest = result["operations"][:SHOWN], result["operations"][SHOWN:]
    if rest:
        sums = {name: sum(row[name] for row in rest) for name in ("share", "calls", "seconds")}
        shown = [*shown, {"name": f"{len(rest)} others", "source": "", **sums}]
    cells = [
        (
            row["name"],
            row["source"],
            f"{100 * row['share']:.1f} %",
            f"{row['calls']:,.1f}",
            f"{1e3 * row['seconds']:,.2f}",
        )
        for row in shown
    ]
    head = ("operation", "compiled from", "share", "calls a step", "ms a step")
    return "\n".join(
        [*aligned([head, *cells], left=2), "", *(line.rstrip() for line in aligned(_summary(result), left=2))]
    )


def _summary(result: Result) -> list[tuple[str, str]]:
    memory, flops, speed = result["memory"], result["flops"], result["flops_per_second"]
    peak = memory["peak"]
    return [
        (
            "a step",
            f"{1e3 * result['seconds_a_step']:,.1f} ms, {result['images_per_second']:,.0f} images/s; it waits for its "
            f"images for {1e3 * result['seconds_for_images']:,.1f} ms",
        ),
        (
            "memory of a device",
            f"{_mb(memory['arguments'])} arguments, {_mb(memory['outputs'])} outputs ({_mb(memory['in_place'])} in the "
            f"place of arguments), {_mb(memory['temporaries'])} temporaries, {_mb(memory['code'])} code",
        ),
        ("its peak", "not known: this device does not report it" if peak is None else _mb(peak)),
        (
            "collectives of a step",
            f"{result['collectives']['count']}, with {_mb(result['collectives']['bytes'])} from each device",
        ),
        (
            "FLOPs of a step",
            f"{flops['products'] / 1e9:,.3g} G in products (3 x 2 x MACs); the compiled program has "
            f"{flops['compiled'] / flops['products']:.2f} times as many",
        ),
        (
            "FLOP/s in products",
            f"{speed['reached'] / 1e9:,.3g} G, {100 * speed['reached'] / speed['peak']:.1f} % of the measured peak",
        ),
        (
            "measured peak",
            f"{speed['peak'] / 1e9:,.3g} GFLOP/s, by a product of {speed['peak_dtype']} matrices of "
            f"{speed['peak_size']}x{speed['peak_size']} on each device",
        ),
    ]


def _mb(nbytes: int) -> str:
    return f"{nbytes / 1e6:,.1f} MB"
