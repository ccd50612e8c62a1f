"""Checkpoints of a run, written by Orbax: the latest and the best, each with the training state and a description.

WORKDIR/checkpoints/STEP/state   the whole `TrainState`
WORKDIR/checkpoints/STEP/meta    JSON: the config, class names, pixel means and the images' shape
WORKDIR/checkpoints/STEP/checksums.json    see `checksums`
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from qresnet_jax.errors import CheckpointError
from qresnet_jax.system.files import as_path
from qresnet_jax.train.checkpoints.checksums import ChecksummedDirectory, verify

if TYPE_CHECKING:
    from qresnet_jax.train.step import TrainState

log = logging.getLogger("qresnet_jax")

_Tree = TypeVar("_Tree")

# Where Orbax moves a checkpoint that is no longer kept. A move is atomic, so that a run that is killed while it deletes
# leaves no half of a checkpoint behind under a step's name.
_DELETED = "being_deleted"


def _accuracy(metrics: Mapping[str, float]) -> float:
    return metrics["eval_accuracy"]


class Checkpoints:
    """The checkpoints of one workdir; a context manager, which closes them.

    Saving is asynchronous and atomic: a step's directory gets its name when it is complete, and loses it before
    anything in it is deleted. Two checkpoints are kept: the latest, and the one with the best validation accuracy. What
    is read is compared with its checksums first.

    If there are several processes, they save together, each its part; with `read_only`, each reads for itself.

    Args:
      workdir: the directory of the run, absolute or relative.
      read_only: whether nothing may be written or deleted; there must then be a checkpoint.

    Raises:
      CheckpointError: `read_only` is set and there is no checkpoint, or the metrics of a checkpoint are damaged.
    """

    def __init__(self, workdir: str | os.PathLike[str], *, read_only: bool = False) -> None:
        self.directory = as_path(workdir).absolute() / "checkpoints"
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
        own = _alone() if read_only else ocp.options.MultiprocessingOptions()
        options = ocp.CheckpointManagerOptions(
            multiprocessing_options=own,
            preservation_policy=policy,
            best_fn=_accuracy,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            todelete_subdir=None if read_only else _DELETED,
            temporary_path_class=ChecksummedDirectory,
        )
        handlers = {
            "state": ocp.StandardCheckpointHandler(multiprocessing_options=own),
            "meta": ocp.JsonCheckpointHandler(multiprocessing_options=own),
        }
        self._failed_to_write = False
        self._verified: dict[int, set[str]] = {}  # the items by step
        self._read_only = read_only
        self._check_metrics()
        self._delete_for_good()  # what a killed run has left
        self._manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)
        if read_only and self.latest_step is None:
            self.close()
            raise CheckpointError(
                f"there is no complete checkpoint in {self.directory}: train first, or give the --workdir of a run"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def steps(self) -> list[int]:
        """The steps of all complete checkpoints, in ascending order."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """The step of the latest checkpoint, or None if there is no checkpoint."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """The step of the checkpoint with the best validation accuracy; the latest step if none was validated."""
        return self.latest_step if self.best_accuracy is None else self._manager.best_step()

    @property
    def best_accuracy(self) -> float | None:
        """The best validation accuracy of the checkpoints, 0 to 1, or None if none was validated."""
        known = (_metrics_of(self._manager, step) for step in self._manager.all_steps())
        return max((_accuracy(metrics) for metrics in known if metrics), default=None)

    def save(
        self, step: int, state: "TrainState", meta: Mapping[str, Any], eval_accuracy: float | None
    ) -> None:
        """Begins to save, and returns once the state is copied, so that its buffers may be donated.

        A step that is already saved is not saved again.

        Args:
          step: the number of steps that the state has done.
          state: the `TrainState`.
          meta: what `meta` returns later; it must be serialisable as JSON.
          eval_accuracy: the validation accuracy at this step, 0 to 1, or None if it was not measured.

        Raises:
          CheckpointError: this checkpoint or the one before it could not be written.
        """
        metrics = None if eval_accuracy is None else {"eval_accuracy": eval_accuracy}
        if step in self._manager.all_steps():
            return
        state = jax.tree.map(_one_copy, state)
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        with self._writing():
            self._manager.wait_until_finished()  # as it may still move a checkpoint there
            self._delete_for_good()
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def meta(self, step: int) -> dict[str, Any]:
        """Returns the description that was saved with a step.

        Raises:
          CheckpointError: the checkpoint is damaged or has been deleted.
        """
        return self._read(step, meta=ocp.args.JsonRestore())["meta"]

    def restore(self, step: int, like: _Tree) -> _Tree:
        """Returns the state of a step.

        Args:
          step: the step of an existing checkpoint.
          like: a state with the same structure, or its `jax.ShapeDtypeStruct`s, whose shapes, dtypes and shardings the
            result takes.

        Raises:
          CheckpointError: the checkpoint is damaged, or it holds another network; the message lists the differences.
        """
        self._check_same_tree(step, like)
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        return self._read(step, state=ocp.args.StandardRestore(target))["state"]

    def arrays(self, step: int) -> dict[str, np.ndarray]:
        """Returns all arrays of a step by their paths, such as `params.stem.kernel.value`.

        Raises:
          CheckpointError: the checkpoint is damaged or has been deleted.
        """
        self._verify(step, "state")
        try:
            stored = self._manager.item_metadata(step)["state"].tree
        except Exception as error:  # Orbax raises exceptions of many types when metadata is damaged
            raise self._damaged(step, error) from error
        # On one device of this process: those that it was saved from may not be here.
        here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=here), stored)
        tree = self._read(step, state=ocp.args.StandardRestore(target))["state"]
        return {path: np.asarray(x) for path, x in tree_paths(tree).items()}

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          CheckpointError: a checkpoint could not be written.
        """
        with self._writing():
            self._manager.wait_until_finished()
            self._delete_for_good()

    def close(self) -> None:
        """Waits until everything is on disk, and closes the manager.

        Raises:
          CheckpointError: a checkpoint could not be written, and this has not been reported yet.
        """
        if self._failed_to_write:
            with contextlib.suppress(Exception):  # Orbax raises the failure again that has been reported
                self._manager.close()
        else:
            with self._writing():
                self._manager.close()
                self._delete_for_good()

    def _delete_for_good(self) -> None:
        """Deletes the checkpoints that Orbax has moved aside; what a reader on a network drive holds open, the next time."""
        if not self._read_only and jax.process_index() == 0:
            shutil.rmtree(self.directory / _DELETED, ignore_errors=True)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax's writers raise exceptions of many types
            self._failed_to_write = True
            full = "RESOURCE_EXHAUSTED" in str(error) or "No space left" in str(error)
            reason = "no space left on the device" if full else _first_line(error)
            kept = self._complete()  # Orbax's own list is no longer right
            saved = f"the checkpoint of step {kept[-1]} is kept" if kept else "there is no earlier checkpoint"
            raise CheckpointError(
                f"a checkpoint could not be written to {self.directory} ({reason}); {saved}. Make room, and run the "
                "same command again to continue"
            ) from error

    def _complete(self) -> list[int]:
        """Returns the steps whose directories have their final names, in ascending order."""
        return sorted(int(p.name) for p in self.directory.glob("*") if p.name.isdigit() and p.is_dir())

    def _check_metrics(self) -> None:
        """Refuses damaged metrics and names their step, as Orbax reads all metrics at once and does not name it."""
        for step in self._complete():
            self._verify(step, "metrics")
            path = self.directory / str(step) / "metrics" / "metrics"
            try:
                if path.parent.exists():
                    _accuracy(json.loads(path.read_text()))
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise self._damaged(step, error) from error

    def _verify(self, step: int, item: str) -> None:
        """Compares the files of an item with their checksums, once."""
        verified = self._verified.setdefault(step, set())
        if item in verified:
            return
        directory = self.directory / str(step)
        try:
            has_checksums = verify(directory, item)
        except (OSError, ValueError) as error:
            raise self._damaged(step, error) from error
        if not has_checksums and not verified and directory.is_dir():
            log.info(
                "%s has no checksums, as it is of an earlier version: damage may go unnoticed", directory
            )
        verified.add(item)

    def _check_same_tree(self, step: int, like: Any) -> None:
        self._verify(step, "state")
        try:
            stored = tree_paths(self._manager.item_metadata(step)["state"].tree)
            found = {path: tuple(x.shape) for path, x in stored.items()}
        except Exception as error:  # Orbax raises exceptions of many types when metadata is damaged
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
                        f"the checkpoint {self.directory / str(step)} belongs to another network or optimizer than the "
                        "config describes. Use its config, or give another --workdir (with --config.init_from to start "
                        "from its weights):",
                        *lines[:12],
                        *more,
                    ]
                )
            )

    def _read(self, step: int, **items: Any) -> Any:
        for item in items:
            self._verify(step, item)
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:  # and when arrays are damaged
            raise self._damaged(step, error) from error

    def _damaged(self, step: int, error: Exception) -> CheckpointError:
        if not (self.directory / str(step)).exists():
            return CheckpointError(
                f"the checkpoint {self.directory / str(step)} has been deleted meanwhile, perhaps by a run that is "
                "still training: try again"
            )
        others = [s for s in self._complete() if s != step]
        way_out = (
            f"delete {self.directory / str(step)} to continue from step {max(others)}"
            if others
            else f"delete {self.directory} to start again"
        )
        return CheckpointError(
            f"the checkpoint {self.directory / str(step)} cannot be read ({_first_line(error)}); {way_out}"
        )


def _alone() -> ocp.options.MultiprocessingOptions:
    """Returns the options with which this process waits for no other one."""
    index = jax.process_index()
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    return ocp.options.MultiprocessingOptions(
        primary_host=index, active_processes={index}, barrier_sync_key_prefix=f"alone_{index}"
    )


def _one_copy(x: jax.Array) -> jax.Array:
    """Returns the copy of an array that one device holds, or the array itself if other processes hold some of it.

    Of an array that all devices hold, Orbax would save a slice from each, and compile a program for each shape of a slice.
    """
    return x.addressable_data(0) if x.is_fully_replicated and x.is_fully_addressable else x


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def _metrics_of(manager: ocp.CheckpointManager, step: int) -> Mapping[str, float] | None:
    try:
        return manager.metrics(step)
    except (FileNotFoundError, KeyError, ValueError):
        return None


def dotted(path: jax.tree_util.KeyPath) -> str:
    """Returns a path of keys as text, such as `params.stem.kernel.value`.

    The text is the same for a state in memory and for one that Orbax has read.
    """
    return ".".join(str(next(getattr(k, a) for a in ("key", "idx", "name") if hasattr(k, a))) for k in path)


def tree_paths(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by their dotted paths."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {dotted(path): leaf for path, leaf in leaves}


def to_json(value: Any) -> Any:
    """Returns a config's values in the form that they have after a round trip through JSON."""
    return json.loads(json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else str(v)))
