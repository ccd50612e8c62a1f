"""`qresnet sweep`: trains the members of a sweep, or continues them, and compares them."""

import logging
import math
import os
import pathlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.commands.sweep.plan import Member, plan
from qresnet_jax.errors import DivergedError, UserError

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
    devices: "Sequence[jax.Device] | None" = None,
) -> "dict[str, list[RunRecord]]":
    """Trains the members of a sweep one after the other, each in `WORKDIR/NAME`, and compares all that are there.

    Complete members are not trained again, and interrupted ones are continued. SIGTERM and Ctrl-C make it save, compare
    what there is, and return early.

    Args:
      config: what all members have in common; see `qresnet_jax.config.default_config`.
      workdir: the directory of the sweep; it is made if necessary.
      seeds, grid, given: see `qresnet_jax.commands.sweep.plan.plan`.
      devices: the devices that each member trains on; all by default.

    Returns:
      The runs of all members, by their settings, in the order of their validation accuracy.

    Raises:
      UserError: a member's settings cannot be used, or the directory belongs to another sweep; nothing has been trained
        then. Or members failed, other than by diverging, after which the others have been trained.
    """
    members = plan(config, seeds, grid or (), given)
    # Only now, so that a mistake in the command is answered without waiting for JAX.
    from qresnet_jax.commands.sweep.results import Sweep
    from qresnet_jax.report.compare import print_tables
    from qresnet_jax.train.interrupt import StopSignal
    from qresnet_jax.train.workdir import claim_workdir

    _check_data_and_devices(members, devices)
    with claim_workdir(workdir) as directory, StopSignal() as stop:
        state = Sweep(directory, config, members)
        log.info(
            "%d runs in %s, %d of them for this command", len(state.entries), directory, len(state.members)
        )
        _train_all(state, stop, devices)
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


def _check_data_and_devices(members: Sequence[Member], devices: "Sequence[jax.Device] | None") -> None:
    """Refuses what a training would refuse once it has its data and devices, before the first one begins."""
    import jax

    from qresnet_jax.data import load_dataset
    from qresnet_jax.train.parallel import cores_as_devices

    # All members train on the same devices, whose number must divide every batch.
    cores_as_devices(math.gcd(*(member.config.batch_size for member in members)))
    count = jax.device_count() if devices is None else len(devices)
    loaded, known = None, None
    for member in sorted(members, key=lambda member: str(member.config.data)):
        configs.validate_devices(member.config, count)
        if str(member.config.data) != known:
            loaded, known = (
                None,
                str(member.config.data),
            )  # the memory of the last one is free before the next is read
            loaded = load_dataset(member.config.data)
        assert loaded is not None
        configs.validate_dataset(member.config, loaded)


def _train_all(state: "Sweep", stop: "StopSignal", devices: "Sequence[jax.Device] | None") -> None:
    for number, member in enumerate(state.members, 1):
        if stop:
            return
        title = f"run {number} of {len(state.members)}: {member.name}"
        if state.is_complete(member):
            failure = state.entries[member.name].failure
            again = (
                f" has {failure} before; delete its directory to train it again"
                if failure
                else " is complete"
            )
            log.info("%s%s", title, again)
            continue
        log.info("\n%s", title)
        failure, error = _train(member, state.directory / member.name, devices)
        state.fail(member.name, failure, error)
        state.write()


def _train(member: Member, workdir: pathlib.Path, devices: "Sequence[jax.Device] | None") -> tuple[str, str]:
    """Trains a member, or continues it; returns its failure in a word and the message, both "" if there is none."""
    from qresnet_jax.train.loop import train_and_evaluate

    try:
        train_and_evaluate(member.config, workdir, devices=devices)
    except DivergedError as error:
        log.info("%s has diverged: %s", member.name, error)
        return "diverged", str(error)
    except UserError as error:
        log.info("%s has failed: %s", member.name, error)
        return "failed", str(error)
    except Exception as error:  # the others are worth hours, so they go on whatever it is
        log.exception("%s has failed", member.name)
        return "failed", f"{type(error).__name__}: {error}"
    return "", ""
