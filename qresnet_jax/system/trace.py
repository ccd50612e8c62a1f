"""Reads the traces of JAX's profiler: which operations took the time of the devices."""

import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from jax.profiler import ProfileData, ProfilePlane


class Operation(NamedTuple):
    """The executions of one operation of a compiled program, over all devices and steps of a trace."""

    name: str  # that of its instruction in the compiled program; of a kernel without one, its own
    executions: int
    seconds: float  # without the operations that run inside it


class Event(NamedTuple):
    """One execution of an operation on one line of a trace; times are in nanoseconds."""

    name: str
    start: float
    duration: float


def read_trace(path: str | os.PathLike[str], module: str) -> list[Operation]:
    """Returns the operations of a compiled program, those that took longest first.

    Args:
      path: a file `*.xplane.pb`, as `jax.profiler.trace` writes it.
      module: the name of the compiled program; operations of other programs are left out.
    """
    import jax

    return operations(events(jax.profiler.ProfileData.from_file(str(path)), module))


def events(profile: "ProfileData", module: str) -> list[list[Event]]:
    """Returns what the devices executed, line by line. A CPU's lines are its threads; an accelerator has its own."""
    planes = list(profile.planes)
    accelerators = [plane for plane in planes if plane.name.startswith("/device:")]
    found = [line for plane in accelerators for line in _of_accelerator(plane, module)]
    return found or [line for plane in planes for line in _of_host(plane, module)]


def _of_accelerator(plane: "ProfilePlane", module: str) -> Iterator[list[Event]]:
    lines = list(plane.lines)
    # A TPU has a line of operations; on a GPU, the streams show its kernels, with the operation that each belongs to.
    chosen = [line for line in lines if line.name == "XLA Ops"]
    for line in chosen or [line for line in lines if line.name.startswith("Stream")]:
        described = [(event, dict(event.stats)) for event in line.events]
        of_line = [
            Event(str(stats.get("hlo_op") or _instruction(event.name)), event.start_ns, event.duration_ns)
            for event, stats in described
            if stats.get("hlo_module", module) == module
        ]
        if of_line:
            yield of_line


def _of_host(plane: "ProfilePlane", module: str) -> Iterator[list[Event]]:
    for line in plane.lines:
        described = [(event, dict(event.stats)) for event in line.events]
        of_line = [
            Event(str(stats["hlo_op"]), event.start_ns, event.duration_ns)
            for event, stats in described
            if "hlo_op" in stats and stats.get("hlo_module") == module
        ]
        if of_line:
            yield of_line


def _instruction(text: str) -> str:
    """Returns the name in front of an instruction's text: `fusion.1` for `%fusion.1 = f32[8]{0} fusion(...)`."""
    return text.partition(" = ")[0].removeprefix("%")


def operations(lines: Iterable[Iterable[Event]]) -> list[Operation]:
    """Sums the executions of each operation; what runs inside another, such as in a loop, counts only for itself."""
    counts: dict[str, int] = {}
    nanoseconds: dict[str, float] = {}
    for line in lines:
        inside: list[
            tuple[Event, float]
        ] = []  # those that have not ended, the innermost last, and when they end
        for event in sorted(line, key=lambda one: (one.start, -one.duration)):
            while inside and inside[-1][1] <= event.start:
                inside.pop()
            if inside:
                nanoseconds[inside[-1][0].name] -= event.duration
            inside.append((event, event.start + event.duration))
            counts[event.name] = counts.get(event.name, 0) + 1
            nanoseconds[event.name] = nanoseconds.get(event.name, 0.0) + event.duration
    found = [Operation(name, count, 1e-9 * nanoseconds[name]) for name, count in counts.items()]
    return sorted(found, key=lambda one: -one.seconds)
