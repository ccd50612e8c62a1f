"""Checkpoints: to the bit, latest and best, refused where damaged or of another network."""

import os
import pathlib
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

from qresnet_jax.config import default_config
from qresnet_jax.errors import CheckpointError
from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel, NormParam
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints, to_json, tree_paths
from qresnet_jax.train.parallel import device_mesh, replicate
from qresnet_jax.train.step import init_state

META = {"config": {"a": [1, None]}, "class_names": ["x", "ü"], "mean": [0.5]}


def small_state(seed=0, out=4, name="conv", devices=1, stem=True):
    """A `TrainState` of one parameter of each type; integers, floats and awkward values, all different."""
    rng = np.random.default_rng(seed)
    conv = {"kernel": BinaryKernel(jnp.float32(rng.normal(0, 1, (3, 3, 2, out))))}
    norm = {"scale": NormParam(jnp.float32(rng.normal(0, 1, out)))}
    params = nnx.State({name: conv, "norm": norm, "alpha": ClippingLevel(jnp.float32(rng.uniform()))})
    if stem:
        params = nnx.State({**params, "stem": nnx.Param(jnp.array([0.0, -0.0, 1e-45, 3e38], jnp.float32))})
    model_state = nnx.State({"mean": nnx.BatchStat(jnp.float32(rng.normal(0, 1, out)))})
    state = init_state(params, model_state, optim.optimizer(default_config().optim, params, 10, 10))
    filled = jax.tree.map(lambda x: x + jnp.asarray(rng.integers(0, 9, x.shape), x.dtype), state.opt_state)
    state = state._replace(opt_state=filled, step=jnp.int32(seed))
    return replicate(state, device_mesh(jax.devices()[:devices]))


def save(workdir, *accuracies, first=1):
    """Checkpoints of steps first, first + 1, ... with states of these seeds."""
    checkpoints = Checkpoints(workdir)
    for step, accuracy in enumerate(accuracies, first):
        checkpoints.save(step, small_state(step), META, accuracy)
    checkpoints.close()


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def assert_same_bits(a, b):
    a, b = ({path: np.asarray(x) for path, x in tree_paths(tree).items()} for tree in (a, b))
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].dtype == b[path].dtype and a[path].tobytes() == b[path].tobytes(), path


def listing(directory):
    return {p: p.stat().st_mtime_ns for p in directory.rglob("*")}


# ---- Saving and restoring ----------------------------------------------------------------------------------


def test_a_state_comes_back_to_the_bit_with_its_description(tmp_path):
    save(tmp_path, None, first=3)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step == 3
    restored = checkpoints.restore(3, small_state(0))
    assert_same_bits(restored, small_state(3))
    assert jax.tree.structure(restored) == jax.tree.structure(small_state(3))
    assert checkpoints.meta(3) == META
    assert checkpoints.arrays(3).keys() == tree_paths(small_state(3)).keys()
    checkpoints.close()


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1), (8, 3)])
def test_a_state_comes_back_on_another_number_of_devices(tmp_path, before, after):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small_state(1, devices=before), META, None)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path)
    restored = checkpoints.restore(1, small_state(0, devices=after))
    checkpoints.close()
    assert_same_bits(restored, small_state(1))
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(restored)} == {after}


def test_the_state_may_be_donated_while_it_is_saved(tmp_path):
    checkpoints, state = Checkpoints(tmp_path), small_state(1)
    checkpoints.save(1, state, META, None)
    for x in jax.tree.leaves(state):
        x.delete()
    checkpoints.wait()
    assert_same_bits(checkpoints.restore(1, small_state(0)), small_state(1))
    checkpoints.close()


@pytest.mark.parametrize(
    ("accuracies", "steps", "best"),
    [
        ((0.5, 0.9, 0.7, 0.6), [2, 4], 2),
        ((0.5, 0.9, 0.7, None), [2, 4], 2),  # stopped inside an epoch: not validated
        ((0.1, 0.2, 0.3), [3], 3),
        ((None, None, None), [3], 3),
        ((0.9, None, 0.2, 0.3), [1, 4], 1),
        ((0.0, None), [1, 2], 1),
    ],
)
def test_latest_and_best_are_kept_and_no_others(tmp_path, accuracies, steps, best):
    save(tmp_path, *accuracies)
    assert kept(tmp_path) == steps
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert (checkpoints.latest_step, checkpoints.best_step) == (len(accuracies), best)
    checkpoints.close()


def test_a_later_process_keeps_the_best_of_an_earlier_one(tmp_path):
    save(tmp_path, 0.5, 0.9)
    save(tmp_path, 0.6, 0.7, first=3)
    assert kept(tmp_path) == [2, 4]


def test_a_step_is_saved_once(tmp_path):
    save(tmp_path, 0.5)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(1, small_state(8), META, 0.6)
    checkpoints.close()
    checkpoints = Checkpoints(tmp_path, read_only=True)
    assert_same_bits(checkpoints.restore(1, small_state(0)), small_state(1))
    checkpoints.close()


def test_a_relative_workdir_is_meant_from_where_the_process_is(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save("runs/a", 0.5)
    assert kept(tmp_path / "runs" / "a") == [1]


def test_reading_changes_nothing(tmp_path):
    save(tmp_path, 0.5, 0.4)
    before = listing(tmp_path)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    checkpoints.restore(2, small_state(0))
    checkpoints.arrays(1)
    checkpoints.close()
    assert listing(tmp_path) == before


# ---- Refusals ----------------------------------------------------------------------------------------------


def test_a_path_without_checkpoints_is_refused_and_left_alone(tmp_path):
    with pytest.raises(CheckpointError, match=r"there is no checkpoint in .*nowhere.*--workdir"):
        Checkpoints(tmp_path / "nowhere", read_only=True)
    assert not list(tmp_path.iterdir())
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError, match=r"there is no complete checkpoint in .*empty/checkpoints"):
        Checkpoints(tmp_path / "empty", read_only=True)


def test_another_network_is_refused_with_what_differs(tmp_path):
    save(tmp_path, 0.5)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        checkpoints.restore(1, small_state(0, out=5))
    message = str(caught.value)
    assert "params.conv.kernel.value: checkpoint (3, 3, 2, 4), config (3, 3, 2, 5)" in message
    assert "model_state.mean.value: checkpoint (4,), config (5,)" in message
    assert "another --workdir" in message and "--config.init_from" in message
    with pytest.raises(CheckpointError, match=r"params\.other\.kernel\.value: not in the checkpoint"):
        checkpoints.restore(1, small_state(0, name="other"))
    with pytest.raises(CheckpointError, match=r"params\.stem\.value: only in the checkpoint"):
        checkpoints.restore(1, small_state(0, stem=False))
    checkpoints.close()


def damage(path, how):
    if how == "emptied":
        path.write_bytes(b"")
    elif how == "halved":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "garbage":
        path.write_bytes(np.random.default_rng(0).bytes(path.stat().st_size))
    elif how == "flipped":
        content = bytearray(path.read_bytes())
        place = np.random.default_rng(len(content)).integers(8 * len(content))
        content[place // 8] ^= 1 << place % 8
        path.write_bytes(content)
    else:
        path.unlink()


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory):
    """The workdir of two checkpoints, of steps 1 and 2; the first is the best."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    save(workdir, 0.5, 0.4)
    return workdir


def files_of(step):
    return [p.relative_to(step) for p in sorted(step.rglob("*")) if p.is_file() and p.stat().st_size]


def read_step_2(workdir):
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.best_accuracy == 0.5
        if checkpoints.latest_step == 2:
            assert_same_bits(checkpoints.restore(2, small_state(0)), small_state(2))
            assert checkpoints.meta(2) == META


def refused(source, workdir, how, path):
    """The message that answers damage to a file of step 2, or "" where the right values were read."""
    shutil.copytree(source, workdir)
    damage(workdir / "checkpoints" / "2" / path, how)
    try:
        read_step_2(workdir)
    except CheckpointError as error:
        assert f"checkpoint {workdir}/checkpoints/2 cannot be read (" in str(error)
        assert str(error).endswith(f"delete {workdir}/checkpoints/2 to continue from step 1")
        return str(error)
    except Exception as error:
        raise AssertionError(f"{path} {how}: {error!r} instead of a CheckpointError") from error
    return ""


@pytest.mark.parametrize("how", ["emptied", "halved", "garbage", "deleted", "flipped"])
def test_damage_to_any_file_is_answered_with_its_name_and_the_step_to_go_on_from(
    two_checkpoints, tmp_path, how
):
    what = "is missing" if how == "deleted" else "has changed since it was saved"
    for i, path in enumerate(files_of(two_checkpoints / "checkpoints" / "2")):
        message = refused(two_checkpoints, tmp_path / str(i), how, path)
        if len(path.parts) > 1:  # what Orbax writes beside the items changes nothing that is read
            assert f"(its file {path} {what})" in message
        elif path.name == "checksums.json" and how in ("emptied", "halved", "garbage"):
            assert "(checksums.json is damaged)" in message


def test_a_flipped_bit_anywhere_in_a_state_is_found(two_checkpoints, tmp_path):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "2"
    rng = np.random.default_rng(0)
    files = [path for path in files_of(step) if path.parts[0] == "state"]
    for path in rng.choice(files, 60):
        good = (step / path).read_bytes()
        place = int(rng.integers(8 * len(good)))
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        (step / path).write_bytes(bad)
        with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
            for read in (lambda c: c.restore(2, small_state(0)), lambda c: c.arrays(2)):
                with pytest.raises(CheckpointError, match=f"its file {path} has changed"):
                    read(checkpoints)
        (step / path).write_bytes(good)
    read_step_2(tmp_path / "run")


def test_a_file_that_is_added_is_named_and_does_no_harm(two_checkpoints, tmp_path, caplog):
    shutil.copytree(two_checkpoints, tmp_path / "run")
    step = tmp_path / "run" / "checkpoints" / "2"
    for name in ("state/.DS_Store", "state/d/0123456789abcdef", "meta/copy of metadata", "note.txt"):
        (step / name).write_text("x")
    read_step_2(tmp_path / "run")
    assert "2/state/.DS_Store was not saved with this checkpoint and is ignored" in caplog.text
    assert "2/meta/copy of metadata was not saved" in caplog.text


@pytest.mark.parametrize("how", ["halved", "garbage"])
def test_a_checkpoint_of_an_earlier_version_has_no_checksums_and_is_read(
    two_checkpoints, tmp_path, caplog, how
):
    caplog.set_level("INFO", "qresnet_jax")
    old = tmp_path / "old"
    shutil.copytree(two_checkpoints, old)
    (old / "checkpoints" / "2" / "checksums.json").unlink()
    read_step_2(old)
    told = f"{old}/checkpoints/2 has no checksums, as it is of an earlier version: damage may go unnoticed"
    assert caplog.text.count(told) == 1 and f"{old}/checkpoints/1 has no" not in caplog.text
    for path in ("state/manifest.ocdbt", "meta/metadata", "metrics/metrics"):  # Orbax notices damage to these
        assert refused(old, tmp_path / path.replace("/", "."), how, pathlib.Path(path))


def test_every_checkpoint_is_closed_and_leaves_no_thread_also_after_an_error(two_checkpoints, monkeypatch):
    closed, close = [], ocp.CheckpointManager.close
    monkeypatch.setattr(ocp.CheckpointManager, "close", lambda self: closed.append(self) or close(self))
    with pytest.raises(ZeroDivisionError), Checkpoints(two_checkpoints):
        raise ZeroDivisionError
    with pytest.raises(CheckpointError), Checkpoints(two_checkpoints, read_only=True) as checkpoints:
        checkpoints.restore(2, small_state(0, out=5))
    assert len(closed) == 2
    empty = two_checkpoints.parent / "empty"
    (empty / "checkpoints").mkdir(parents=True)
    with pytest.raises(CheckpointError):
        Checkpoints(empty, read_only=True)
    assert len(closed) == 3


def test_damage_to_the_only_checkpoint_is_answered_with_the_way_to_begin_anew(tmp_path):
    save(tmp_path, 0.5)
    shutil.rmtree(tmp_path / "checkpoints" / "1" / "state")
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=f"delete {tmp_path}/checkpoints to start again$"):
        checkpoints.restore(1, small_state(0))
    checkpoints.close()


def test_what_a_killed_save_left_is_no_checkpoint_and_is_cleaned_up(tmp_path):
    save(tmp_path, 0.5)
    left = tmp_path / "checkpoints" / "2.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "checkpoints" / "1", left)
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.latest_step == 1 and left.exists()
    reader.close()
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.latest_step == 1
    checkpoints.save(2, small_state(2), META, 0.6)
    checkpoints.close()
    assert kept(tmp_path) == [2]


KILLED_WHILE_DELETING = """
import os, pathlib, shutil, sys

def killed(directory, *args, **kwargs):
    files = sorted(path for path in pathlib.Path(directory).rglob("*") if path.is_file())
    for path in files[: len(files) // 2]:
        path.unlink()
    if files:
        os._exit(9)

from tests.train.checkpoints.test_checkpoint import save
shutil.rmtree = killed
save(sys.argv[1], 0.6, first=2)
"""


def test_a_kill_while_a_checkpoint_is_deleted_leaves_no_half_of_it_under_its_step(tmp_path):
    save(tmp_path, 0.5)
    status = subprocess.run([sys.executable, "-c", KILLED_WHILE_DELETING, str(tmp_path)], timeout=300)
    assert status.returncode == 9
    reader = Checkpoints(tmp_path, read_only=True)
    assert reader.steps == [2] and reader.meta(2) == META
    reader.close()
    aside = tmp_path / "checkpoints" / "being_deleted"
    assert aside.exists()  # a reader deletes nothing
    Checkpoints(tmp_path).close()
    assert not aside.exists() and kept(tmp_path) == [2]


def test_stray_files_are_no_checkpoints_and_stay(tmp_path):
    save(tmp_path, 0.5)
    directory = tmp_path / "checkpoints"
    for name in ("notes.txt", ".DS_Store", "7", "1.bak"):
        (directory / name).write_text("x")
    for name in ("old", "1 (copy)", ".cache"):
        shutil.copytree(directory / "1", directory / name)
    strays = set(directory.iterdir()) - {directory / "1"}
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps == [1] and checkpoints.best_step == 1
    assert_same_bits(checkpoints.restore(1, small_state(0)), small_state(1))
    checkpoints.save(2, small_state(2), META, 0.6)
    checkpoints.close()
    assert set(directory.iterdir()) == strays | {directory / "2"}


def test_an_empty_directory_with_a_steps_name_is_refused_by_name(tmp_path):
    save(tmp_path, 0.5)
    (tmp_path / "checkpoints" / "9").mkdir()
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(CheckpointError, match=f"delete {tmp_path}/checkpoints/9 to continue from step 1$"):
        checkpoints.restore(checkpoints.latest_step, small_state(0))
    checkpoints.close()


def test_a_checkpoint_that_a_training_run_deletes_meanwhile_is_no_damage(tmp_path):
    save(tmp_path, 0.5, 0.4)
    checkpoints = Checkpoints(tmp_path, read_only=True)
    shutil.rmtree(tmp_path / "checkpoints" / "1")
    with pytest.raises(CheckpointError, match="checkpoints/1 has been deleted meanwhile.*try again$"):
        checkpoints.restore(1, small_state(0))
    checkpoints.close()


def test_to_json_gives_what_json_can_hold():
    assert to_json({"a": (1, 2), "b": np.float32(0.5), "c": np.arange(2)}) == {
        "a": [1, 2],
        "b": 0.5,
        "c": [0, 1],
    }
