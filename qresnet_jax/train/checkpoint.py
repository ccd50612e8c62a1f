"""Checkpoints of a run, by Orbax: the latest and the best, each with the training state and a description.

WORKDIR/checkpoints/STEP/state   the whole `TrainState`
WORKDIR/checkpoints/STEP/meta    JSON: config, class names, pixel means
"""

import contextlib
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from orbax.checkpoint import checkpoint_managers as policies

from qresnet_jax.errors import CheckpointError

if TYPE_CHECKING:
    from qresnet_jax.train.step import TrainState

_Tree = TypeVar("_Tree")


def _accuracy(metrics: Mapping[str, float]) -> float:
    return metrics["eval_accuracy"]


class Checkpoints:
    """The checkpoints of one workdir.

    Saving is asynchronous and atomic: a step's directory appears under its name when it is complete. Kept are the
    latest checkpoint and the one of the best validation accuracy.

    Args:
      workdir: of the run, absolute or relative.
      read_only: never write or delete; the directory must then exist.

    Raises:
      CheckpointError: read only, and there is no checkpoint.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.directory = pathlib.Path(workdir).absolute() / "checkpoints"
        if read_only and not self.directory.is_dir():
            raise CheckpointError(
                f"there is no checkpoint in {workdir}: expected the directory {self.directory}. Train first, or give "
                "the --workdir of a run"
            )
        policy = policies.AnyPreservationPolicy(
            [
                policies.LatestN(1),
                policies.BestN(get_metric_fn=_accuracy, n=1, keep_checkpoints_without_metrics=False),
            ]
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy,
            best_fn=_accuracy,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
        )
        handlers = {"state": ocp.StandardCheckpointHandler(), "meta": ocp.JsonCheckpointHandler()}
        self._failed_to_write = False
        self._check_metrics()
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        if read_only and self.latest_step is None:
            raise CheckpointError(f"there is no complete checkpoint in {self.directory}")

    @property
    def steps(self) -> list[int]:
        """Steps of all complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """Step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the best validation accuracy; the latest where none was validated."""
        return self.latest_step if self.best_accuracy is None else self._manager.best_step()

    @property
    def best_accuracy(self) -> float | None:
        """The best validation accuracy among the checkpoints, None where none was validated."""
        known = (_metrics_of(self._manager, step) for step in self._manager.all_steps())
        return max((_accuracy(metrics) for metrics in known if metrics), default=None)

    def save(
        self, step: int, state: "TrainState", meta: Mapping[str, Any], eval_accuracy: float | None
    ) -> None:
        """Begins to save; returns once the state is copied, so that it may be donated.

        Args:
          step: of the state.
          state: the `TrainState`.
          meta: what `meta` returns later, serialisable as JSON.
          eval_accuracy: validation accuracy, if it was measured at this step.

        Raises:
          CheckpointError: this or the save before could not be written.
        """
        metrics = None if eval_accuracy is None else {"eval_accuracy": eval_accuracy}
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        if step in self._manager.all_steps():
            return
        with self._writing():
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def meta(self, step: int) -> dict[str, Any]:
        """The description saved with a step."""
        return self._read(step, meta=ocp.args.JsonRestore())["meta"]

    def restore(self, step: int, like: _Tree) -> _Tree:
        """The state of a step.

        Args:
          step: one that exists.
          like: a state of the same structure, whose shapes, dtypes and shardings the result takes.

        Raises:
          CheckpointError: damaged, or of another network; the message lists what differs.
        """
        self._check_same_tree(step, like)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return self._read(step, state=ocp.args.StandardRestore(target))["state"]

    def arrays(self, step: int) -> dict[str, np.ndarray]:
        """All arrays of a step by path, such as `params.stem.kernel`."""
        tree = self._read(step, state=ocp.args.StandardRestore())["state"]
        return {path: np.asarray(x) for path, x in tree_paths(tree).items()}

    def wait(self) -> None:
        """Returns when everything is on disk.

        Raises:
          CheckpointError: it could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits and lets go of the directory."""
        if self._failed_to_write:
            with contextlib.suppress(Exception):  # the failure that was reported, once more
                self._manager.close()
        else:
            with self._writing():
                self._manager.close()

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax's writers raise whatever comes
            self._failed_to_write = True
            full = "RESOURCE_EXHAUSTED" in str(error) or "No space left" in str(error)
            reason = "no space left on the device" if full else _first_line(error)
            kept = self._complete()  # Orbax itself no longer knows
            saved = f"that of step {kept[-1]} is kept" if kept else "nothing is saved yet"
            raise CheckpointError(
                f"a checkpoint could not be written to {self.directory} ({reason}); {saved}. Make room, and the same "
                "command goes on"
            ) from error

    def _complete(self) -> list[int]:
        """Steps whose directory has its final name, ascending."""
        return sorted(int(p.name) for p in self.directory.glob("*") if p.name.isdigit())

    def _check_metrics(self) -> None:
        """Orbax reads all steps' metrics at once and does not say whose are damaged."""
        steps = self._complete()
        for step in steps:
            path = self.directory / str(step) / "metrics" / "metrics"
            try:
                if path.parent.exists():
                    _accuracy(json.loads(path.read_text()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise self._damaged(step, error, steps) from error

    def _check_same_tree(self, step: int, like: Any) -> None:
        try:
            stored = tree_paths(self._manager.item_metadata(step)["state"].tree)
            found = {path: tuple(x.shape) for path, x in stored.items()}
        except Exception as error:  # Orbax meets damaged metadata with whatever exception comes
            raise self._damaged(step, error) from error
        expected = {path: tuple(x.shape) for path, x in tree_paths(like).items()}
        expected = dict(sorted(expected.items(), key=lambda item: not item[0].startswith("params.")))
        lines = [f"  {p}: not in the checkpoint" for p in expected if p not in found]
        lines += [f"  {p}: only in the checkpoint" for p in found if p not in expected]
        lines += [
            f"  {p}: checkpoint {found[p]}, config {expected[p]}"
            for p in expected
            if p in found and found[p] != expected[p]
        ]
        if lines:
            more = [f"  and {len(lines) - 12} more"] if len(lines) > 12 else []
            raise CheckpointError(
                "\n".join(
                    [
                        f"the checkpoint {self.directory / str(step)} is of another network or optimizer than the config "
                        "describes. Use its config, or another --workdir (and --config.init_from to start from it):",
                        *lines[:12],
                        *more,
                    ]
                )
            )

    def _read(self, step: int, **items: Any) -> Any:
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # the same for damaged arrays
            raise self._damaged(step, error) from error

    def _damaged(self, step: int, error: Exception, steps: Sequence[int] | None = None) -> CheckpointError:
        if not (self.directory / str(step)).exists():
            return CheckpointError(
                f"the checkpoint {self.directory / str(step)} has been deleted meanwhile, as by a run that goes on: try again"
            )
        others = [s for s in (self._manager.all_steps() if steps is None else steps) if s != step]
        way_out = (
            f"delete {self.directory / str(step)} to go on from step {max(others)}"
            if others
            else f"delete {self.directory} to begin anew"
        )
        return CheckpointError(
            f"the checkpoint {self.directory / str(step)} cannot be read ({_first_line(error)}); {way_out}"
        )


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _metrics_of(manager: ocp.CheckpointManager, step: int) -> Mapping[str, float] | None:
    try:
        return manager.metrics(step)
    except (FileNotFoundError, KeyError, ValueError):
        return None


def dotted(path: jax.tree_util.KeyPath) -> str:
    """A path of keys as `params.stem.kernel.value`, the same for a live state and for one that Orbax has read."""
    return ".".join(str(next(getattr(k, a) for a in ("key", "idx", "name") if hasattr(k, a))) for k in path)


def tree_paths(tree: Any) -> dict[str, Any]:
    """The arrays of a tree by dotted path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {dotted(path): leaf for path, leaf in leaves}


def warm_start(
    source: str | os.PathLike[str], params: nnx.State, model_state: nnx.State
) -> tuple[nnx.State, nnx.State, str]:
    """Takes over what fits, by path and shape, from another run.

    Latent weights are preferred to the binary weights that the source's network computes with.

    Args:
      source: a workdir, or its `checkpoints` directory, or one step in it.
      params, model_state: of the new network.

    Returns:
      The two with values taken over, and a report: what was matched, missing in the source, of another shape.

    Raises:
      CheckpointError: no checkpoint there.
    """
    path = pathlib.Path(source).absolute()
    step = None
    if path.name.isdigit() and path.parent.name == "checkpoints":
        step, path = int(path.name), path.parent.parent
    elif path.name == "checkpoints":
        path = path.parent
    checkpoints = Checkpoints(path, read_only=True)
    if step is None:
        step = checkpoints.best_step
    elif step not in checkpoints.steps:
        raise CheckpointError(f"there is no checkpoint {source}; there are the steps {checkpoints.steps}")
    assert step is not None  # there are checkpoints, or the directory would have been refused
    stored = checkpoints.arrays(step)
    checkpoints.close()
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
    lines = [f"warm start from {path} at step {step}: {len(matched)} arrays matched"]
    lines += [f"{len(missing)} missing there, initialised: {_few(missing)}"] if missing else []
    lines += [f"{len(reshaped)} of another shape, re-initialised: {_few(reshaped)}"] if reshaped else []
    return params, model_state, "; ".join(lines)


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def to_json(value: Any) -> Any:
    """A config's values as JSON holds them."""
    return json.loads(json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v)))
