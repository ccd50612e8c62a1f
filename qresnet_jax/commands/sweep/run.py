"""`qresnet sweep`: trains the members of a sweep, or continues them, and compares them."""

import logging
import math
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.commands.sweep.plan import Member, parse_together, plan
from qresnet_jax.errors import DivergedError, UserError
from qresnet_jax.system.files import as_path

if TYPE_CHECKING:
    import jax

    from qresnet_jax.commands.sweep.results import Sweep
    from qresnet_jax.report.runs import RunRecord
    from qresnet_jax.train.interrupt import StopSignal

log = logging.getLogger("qresnet_jax")


def sweep(
    config: ConfigDict,
    workdir: str | os.PathLike[str],
    *,
    seeds: str | None = None,
    grid: Sequence[str] | None = None,
    given: Collection[str] = (),
    together: str | None = None,
    devices: "Sequence[jax.Device] | None" = None,
) -> "dict[str, list[RunRecord]]":
    """Trains the members of a sweep, each in `WORKDIR/NAME`, and compares all that are there.

    Complete members are not trained again, and interrupted ones are continued. SIGTERM and Ctrl-C make it save, compare
    what there is, and return early.

    Args:
      config: what all members have in common; see `qresnet_jax.config.default_config`.
      workdir: the directory of the sweep; it is made if necessary.
      seeds, grid, given: see `qresnet_jax.commands.sweep.plan.plan`.
      together: how many members are trained at once, each on one device; "1" for one after the other, on all devices;
        None or "auto" for what is best as far as it has been measured.
      devices: the devices to use; all by default.

    Returns:
      The runs of all members, by their settings, in the order of their validation accuracy.

    Raises:
      UserError: a member's settings cannot be used, or the directory belongs to another sweep; nothing has been trained
        then. Or members failed, other than by diverging, after which the others have been trained.
    """
    members, at_once = plan(config, seeds, grid or (), given), parse_together(together)
    # Only now, so that a mistake in the command is answered without waiting for JAX.
    from qresnet_jax.commands.sweep.results import Sweep
    from qresnet_jax.report.compare import print_tables
    from qresnet_jax.train.checkpoints.workdir import claim_workdir
    from qresnet_jax.train.interrupt import StopSignal

    _check_runs_and_networks(members, as_path(workdir).absolute())
    at_once = _check_data_and_devices(members, at_once, devices)
    with claim_workdir(workdir) as directory, StopSignal() as stop:
        state = Sweep(directory, config, members)
        log.info(
            "%d runs in %s, %d of them for this command", len(state.entries), directory, len(state.members)
        )
        _train_all(state, at_once, stop, devices)
        groups = state.groups()
        state.write(groups)
        print_tables(groups)
        for remark in state.remarks(groups):
            log.info(remark)
        log.info("wrote sweep.json, sweep.md and sweep.png in %s", directory)
        if stop:
            log.info("stopped by %s; everything is saved, and the same command continues the sweep", stop)
        failed = [entry for entry in state.entries.values() if entry.failure == "failed"]
        if failed and not stop:
            raise UserError(
                f"{len(failed)} of {len(state.entries)} runs failed, such as {failed[0].name}: {failed[0].error}. The same "
                "command tries them again"
            )
        return groups


def _check_runs_and_networks(members: Sequence[Member], workdir: pathlib.Path) -> None:
    """Refuses other runs without a checkpoint, and networks of the user's own that cannot be built, before data are read."""
    from flax import nnx

    from qresnet_jax.models.architecture import own_parts
    from qresnet_jax.models.networks import create_model
    from qresnet_jax.train.checkpoints.resume import check_other_runs, other_runs

    # Each of them once, as all seeds have the same.
    check_other_runs({run for m in members for run in other_runs(m.config, workdir / m.name)})
    for model in {str(m.config.model): m.config.model for m in members}.values():
        if own_parts(model.name):
            create_model(model, rngs=nnx.Rngs(0))


def _check_data_and_devices(
    members: Sequence[Member], at_once: int | None, devices: "Sequence[jax.Device] | None"
) -> int:
    """Refuses what a training would refuse once it has its data and devices, before the first one begins.

    Returns:
      How many members are trained at once.
    """
    import jax

    from qresnet_jax.data import load_dataset
    from qresnet_jax.train.parallel import cores_as_devices

    loaded, known = None, None
    for member in sorted(members, key=lambda member: str(member.config.data)):
        if str(member.config.data) != known:
            loaded = None  # its memory is free before the next set is read
            loaded, known = load_dataset(member.config.data), str(member.config.data)
        assert loaded is not None
        configs.validate_dataset(member.config, loaded)
    # One after the other, all members train on the same devices, whose number must divide every batch.
    shared = at_once in (None, 1)
    cores_as_devices(math.gcd(*(member.config.batch_size for member in members)) if shared else None)
    devices = jax.devices() if devices is None else devices
    if at_once is None:
        is_small = all(member.config.model.stem == "cifar" for member in members)
        at_once = len(devices) if is_small and devices[0].platform != "cpu" else 1
    if at_once == 1:
        for member in members:
            configs.validate_devices(member.config, len(devices))
    return at_once


def _train_all(
    state: "Sweep", at_once: int, stop: "StopSignal", devices: "Sequence[jax.Device] | None"
) -> None:
    rest = []
    for member in state.members:
        if not state.is_complete(member):
            rest.append(member)
        elif failure := state.entries[member.name].failure:
            log.info("%s has %s before; delete its directory to train it again", member.name, failure)
    log.info("%d of them are complete", len(state.members) - len(rest))

    def ended(name: str, error: Exception | None) -> None:
        state.fail(name, *(("", "") if error is None else _failure(name, error)))
        state.write()

    if at_once == 1:
        for number, member in enumerate(rest, 1):
            if stop:
                return
            log.info("\nrun %d of %d: %s", number, len(rest), member.name)
            ended(member.name, _train(member, state.directory / member.name, devices))
    elif rest:
        from qresnet_jax.train.together import Run, train_together

        runs = [Run(member.config, state.directory / member.name, member.name) for member in rest]
        train_together(
            runs,
            at_once,
            lambda run, result: ended(run.name, result if isinstance(result, Exception) else None),
            devices=devices,
        )


def _train(member: Member, workdir: pathlib.Path, devices: "Sequence[jax.Device] | None") -> Exception | None:
    """Trains a member, or continues it; returns the error that ended it, if one did."""
    from qresnet_jax.train.loop import train_and_evaluate

    try:
        train_and_evaluate(member.config, workdir, devices=devices)
    except Exception as error:  # the other members are worth hours, so they go on whatever it is
        return error
    return None


def _failure(name: str, error: Exception) -> tuple[str, str]:
    """Returns a member's failure in a word, and the message."""
    if isinstance(error, UserError):
        failure, message = "diverged" if isinstance(error, DivergedError) else "failed", str(error)
        log.info("%s has %s: %s", name, failure, message)
    else:
        failure, message = "failed", f"{type(error).__name__}: {error}"
        log.error("%s has failed", name, exc_info=error)
    return failure, message
