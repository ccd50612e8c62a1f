"""Where a training starts: from the run's own checkpoint, if it is the same run, or from another run's weights."""

import contextlib
import logging
import os
import pathlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
from flax import nnx
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import CheckpointError
from qresnet_jax.system.files import as_path
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints, dotted
from qresnet_jax.train.step import TrainState

log = logging.getLogger("qresnet_jax")

# The names, or beginnings of names, of the fields that say what the network computes.
_OF_THE_NETWORK = ("model.", "dtype")
# The same for all fields that a run keeps: with others, the steps before and after would not belong to one run.
_OF_THE_RUN = (
    *_OF_THE_NETWORK,
    "seed",
    "batch_size",
    "data.name",
    "data.holdout",
    "optim.name",
    "optim.float_epochs",
)
# What a checkpoint says of the data, beside the config.
_OF_THE_DATA = {
    "class_names": "the class names were {} and are {}",
    "image_shape": "the image shape was {} and is {}",
    "mean": "the pixel means were {} and are {}",
    "checksum": "the checksum of the train images was {} and is {}",
    "checksum_of_files": "the checksum of the files was {} and is {}",  # of a set that is streamed
}


def continue_run(
    checkpoints: Checkpoints, like: TrainState, meta: Mapping[str, Any], total_steps: int
) -> TrainState:
    """Returns the state of the latest checkpoint, after it has checked that the call belongs to this run.

    Args:
      checkpoints: those of the run; there must be one.
      like: a state with the same structure, whose shapes, dtypes and shardings the result takes.
      meta: what this call will save with its checkpoints: its config and what it knows of the data.
      total_steps: the steps that the config asks for.

    Raises:
      CheckpointError: a checkpoint is damaged, or belongs to another network or to a run with other settings, or the
        run is longer than `total_steps`.
    """
    latest = checkpoints.latest_step
    assert latest is not None
    for step in reversed(checkpoints.steps):
        check_same_run(checkpoints.meta(step), meta, checkpoints.directory / str(step))
    workdir = checkpoints.directory.parent
    if latest > total_steps:
        raise CheckpointError(
            f"{workdir} has been trained for {latest} steps, more than the {total_steps} of "
            f"config.num_epochs={meta['config']['num_epochs']}: raise num_epochs, or give another --workdir"
        )
    changes = changed_fields(checkpoints.meta(latest), meta)
    if changes:  # they are logged before restoring, as one of them may be why the checkpoint does not fit
        log.info("changed since the checkpoint: %s", ", ".join(changes.values()))
    state = checkpoints.restore(latest, like)
    log.info("continuing from step %d of %d in %s", latest, total_steps, workdir)
    return state


def check_same_run(saved: Mapping[str, Any], given: Mapping[str, Any], checkpoint: pathlib.Path) -> None:
    """Refuses to continue a run as another one: with another network, on other data, or in another order.

    Args:
      saved: the description in the checkpoint.
      given: that of this call, in the same form.
      checkpoint: the directory of the checkpoint, for messages.

    Raises:
      CheckpointError: the message names what differs, and the way out.
    """
    workdir = checkpoint.parent.parent
    elsewhere = f"another --workdir (with --config.init_from={workdir} to start from the weights of this run)"
    fatal = [text for name, text in changed_fields(saved, given).items() if name.startswith(_OF_THE_RUN)]
    if fatal:
        raise CheckpointError(
            f"the checkpoint {checkpoint} belongs to a run with other settings: {', '.join(fatal)}. Give the old "
            f"values, or {elsewhere}"
        )
    before, now = (meta.get("teacher") for meta in (saved, given))
    if before != now:
        raise CheckpointError(
            f"the checkpoint {checkpoint} belongs to a run with another teacher: the checksum of its weights was {before} and "
            f"is {now}. Give config.optim.distillation.teacher as it was, or {elsewhere}"
        )
    for name, words in _OF_THE_DATA.items():
        before, now = (meta.get(name) for meta in (saved, given))
        if before is not None and now is not None and before != now:
            raise CheckpointError(
                f"the checkpoint {checkpoint} belongs to a run on other data: {words.format(str(before)[:60], str(now)[:60])}. "
                f"Restore the data set, or give {elsewhere}"
            )


def changed_fields(saved: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, str]:
    """Returns the fields of a run's config that differ, as `{"num_epochs": "config.num_epochs=5 (was 4)"}`.

    Fields of one call of the command (`config.OF_THE_CALL`) are left out. A field that is newer than the saved config
    had its default; one that no longer exists is left out.

    Args:
      saved: the description in a checkpoint.
      given: that of a later call, in the same form; of both, only the config counts.
    """
    before, now = (configs.flatten(configs.from_json(meta.get("config", {}))) for meta in (saved, given))
    return {
        name: f"config.{name}={value} (was {before[name]})"
        for name, value in now.items()
        if before[name] != value and not name.startswith(configs.OF_THE_CALL)
    }


def warm_start(
    source: str | os.PathLike[str],
    params: nnx.State,
    model_state: nnx.State,
    meta: Mapping[str, Any] | None = None,
) -> tuple[nnx.State, nnx.State, str]:
    """Copies the arrays that fit, by path and shape, from a checkpoint of another run.

    For binary kernels it takes the latent weights, not the binary ones that the source's network computes with.

    Args:
      source: a workdir, or its `checkpoints` directory, or the directory of one step in it.
      params, model_state: the parameters and the other variables of the new network.
      meta: the description of the new run; None if its config is not to be compared.

    Returns:
      The two states with the copied values, and a report in words: how many arrays matched, which are missing in the
      source, which have another shape there, and how the settings of the new network differ from those of the source.

    Raises:
      CheckpointError: there is no such checkpoint, or it is damaged.
    """
    with _checkpoint_of(source) as (checkpoints, step):
        stored, described = checkpoints.arrays(step), checkpoints.meta(step)
    latents = {p.split(".latent.", 1)[1]: x for p, x in stored.items() if ".latent." in p}
    matched: list[str] = []
    missing: list[str] = []
    reshaped: list[str] = []

    def take(prefix: str, state: nnx.State) -> nnx.State:
        def one(keys: jax.tree_util.KeyPath, value: jax.Array) -> jax.Array:
            name = dotted(keys)
            found = latents.get(name) if prefix == "params" else None
            found = stored.get(f"{prefix}.{name}") if found is None else found
            if found is None:
                missing.append(name)
            elif found.shape != value.shape:
                reshaped.append(f"{name} {found.shape} -> {value.shape}")
            else:
                matched.append(name)
                return jax.device_put(found.astype(value.dtype), value.sharding)
            return value

        return jax.tree_util.tree_map_with_path(one, state)

    params, model_state = take("params", params), take("model_state", model_state)
    path = checkpoints.directory.parent
    lines = [f"warm start from {path} at step {step}: {len(matched)} arrays matched"]
    if missing:
        lines += [f"{len(missing)} are missing there and keep their initial values: {_few(missing)}"]
    if reshaped:
        lines += [f"{len(reshaped)} have another shape there and keep their initial values: {_few(reshaped)}"]
    changes = {} if meta is None else changed_fields(described, meta)
    other = [text for name, text in changes.items() if name.startswith(_OF_THE_NETWORK)]
    if other:
        lines += [f"the network has other settings: {', '.join(sorted(other))}"]
    return params, model_state, "; ".join(lines)


@contextlib.contextmanager
def _checkpoint_of(source: str | os.PathLike[str]) -> Iterator[tuple[Checkpoints, int]]:
    """Opens the checkpoint that `source` names, see `warm_start`; yields those of its run, and its step."""
    path = as_path(source).absolute()
    step = None
    if path.name.isdigit() and path.parent.name == "checkpoints":
        step, path = int(path.name), path.parent.parent
    elif path.name == "checkpoints":
        path = path.parent
    with Checkpoints(path, read_only=True) as checkpoints:
        if step is None:
            step = checkpoints.best_step
        elif step not in checkpoints.steps:
            raise CheckpointError(
                f"there is no checkpoint {source}: give one of the steps {checkpoints.steps}, or the workdir"
            )
        assert step is not None  # a directory without checkpoints has been refused
        yield checkpoints, step


def other_runs(config: ConfigDict, workdir: pathlib.Path) -> set[tuple[str, str]]:
    """Returns the other runs that a training needs, each as the field that names it and its value.

    Args:
      config: its teacher is needed, and its `init_from` if the run is new.
      workdir: the directory of the run itself, which need not exist.
    """
    named = {"optim.distillation.teacher": config.optim.distillation.teacher}
    if not (workdir / "checkpoints").is_dir():
        named["init_from"] = config.init_from
    return {(field, source) for field, source in named.items() if source}


def check_other_runs(needed: Iterable[tuple[str, str]]) -> None:
    """Refuses other runs that have no checkpoint, before any data are read.

    Args:
      needed: from `other_runs`.

    Raises:
      CheckpointError: the message names the field and the directory.
    """
    for field, source in sorted(needed):
        try:
            with _checkpoint_of(source) if field == "init_from" else Checkpoints(source, read_only=True):
                pass
        except CheckpointError as error:
            raise CheckpointError(f"config.{field}={source!r}: {error}") from error


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
