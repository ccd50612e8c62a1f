"""Distillation: the loss against NumPy in float64, what a teacher is, and runs that have one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.commands import profile
from qresnet_jax.data import ImageDataset
from qresnet_jax.errors import CheckpointError, DataError
from qresnet_jax.models.resnet import create_model
from qresnet_jax.pixels import normalize
from qresnet_jax.train import loop, together
from qresnet_jax.train.checkpoints.checkpoint import Checkpoints
from qresnet_jax.train.distillation import TaughtData, Teacher, distillation_loss
from qresnet_jax.train.evaluator import restore_run
from tests.train.tiny_runs import FLOAT, configuration, lines, run, tiny_data, tiny_set, without_speed

TEACHER = "optim.distillation.teacher"
WEIGHT = "optim.distillation.weight"
CONSTANT = {"optim.schedule": "constant"}


def logits(seed, n=5, classes=4):
    return np.random.default_rng(seed).normal(0, 3, (n, classes))


def loss64(got, taught, temperature):
    """Hinton et al. 2015 in float64: T**2 times the mean of sum(p * log(p / q))."""

    def softmax(x):
        e = np.exp(x / temperature - (x / temperature).max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    p, q = softmax(taught), softmax(got)
    return temperature**2 * np.mean(np.sum(p * np.log(p / q), -1))


@settings(deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.5, 1.0, 2.0, 5.0]))
def test_the_loss_is_that_of_numpy_in_float64(seed, temperature):
    mine, taught = logits(seed), logits(seed + 1)
    got = distillation_loss(jnp.float32(mine), jnp.float32(taught), temperature)
    assert got == pytest.approx(loss64(mine, taught, temperature), rel=1e-4, abs=1e-5)
    assert got > -1e-6
    same = distillation_loss(jnp.float32(taught), jnp.float32(taught) + 7, temperature)
    assert abs(same) < 1e-5  # a shift of all logits changes no probability


def test_the_gradient_of_the_loss_is_a_finite_difference():
    mine, taught = logits(0), logits(1)
    gradient = jax.grad(distillation_loss)(jnp.float32(mine), jnp.float32(taught), 2.0)
    for i, j in np.ndindex(*mine.shape):
        step = np.zeros_like(mine)
        step[i, j] = 1e-6
        slope = (loss64(mine + step, taught, 2.0) - loss64(mine - step, taught, 2.0)) / 2e-6
        assert gradient[i, j] == pytest.approx(slope, abs=1e-5)


# Runs.


@pytest.fixture(autouse=True, scope="module")
def only_tiny_data():
    with tiny_data():
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The workdir of a wider float network."""
    workdir = tmp_path_factory.mktemp("teacher")
    run(workdir, **FLOAT, **{"model.width": 2, "num_epochs": 8})
    return workdir


@pytest.fixture(scope="module")
def taught(tmp_path_factory, teacher):
    """The workdir of a network with a float epoch, then two quantized ones."""
    workdir = tmp_path_factory.mktemp("taught")
    run(workdir, **CONSTANT, **{TEACHER: str(teacher), "optim.float_epochs": 1})
    return workdir


def test_a_teacher_answers_as_its_network_does_and_with_its_own_means():
    config = configuration(**FLOAT)
    model = create_model(config.model, rngs=nnx.Rngs(0))
    model.eval()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    pixels = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    for mean in (0.0, 100.5):
        one = Teacher(graphdef, params, rest, jnp.float32([mean]))
        want = model(normalize(jnp.asarray(pixels), jnp.float32([mean])))
        np.testing.assert_array_equal(one.logits(jnp.asarray(pixels)), want)
    other = Teacher(graphdef, params, rest, jnp.float32([1.0]))
    assert (
        one.checksum() == Teacher(graphdef, params, rest, jnp.float32([100.5])).checksum() != other.checksum()
    )


def test_the_loss_of_a_step_is_the_weighted_sum_of_both(tmp_path, teacher):
    """Of the first step, which is logged alone, from the logits of both networks in float64."""
    weight, temperature = 0.3, 3.0
    changes = {**FLOAT, "log_every_steps": 1, "steps_per_dispatch": 1, "num_epochs": 1}
    changes |= {TEACHER: str(teacher), WEIGHT: weight, "optim.distillation.temperature": temperature}
    run(tmp_path, **changes)
    config = configuration(**changes)
    training = loop.Training(config, tmp_path, loop.device_mesh(jax.devices()[:1]))
    data = training.feed()(0)
    images, labels = data.share(jnp.int32(0), config.batch_size, jnp.int32(0), 1)
    model = create_model(config.model, rngs=nnx.Rngs(config.seed))
    mine = np.asarray(nnx.jit(lambda m, x: m(x))(model, normalize(images, data.mean)), np.float64)
    theirs = restore_run(None, teacher, mesh=loop.device_mesh(jax.devices()[:1]))
    wanted = nnx.jit(lambda m, x: m(x))(theirs.model(), normalize(images, jnp.float32(theirs.meta["mean"])))
    shifted = mine - mine.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    of_labels = -np.mean(log_probabilities[np.arange(len(labels)), labels])
    of_teacher = loss64(mine, np.asarray(wanted, np.float64), temperature)
    assert lines(tmp_path)[0]["train_loss"] == pytest.approx(
        (1 - weight) * of_labels + weight * of_teacher, rel=1e-3
    )


def test_a_network_learns_from_its_teacher_alone(tmp_path, teacher):
    """No label has any weight, and still it tells the classes apart."""
    result = run(tmp_path, **FLOAT, **{TEACHER: str(teacher), WEIGHT: 1.0, "num_epochs": 8})
    assert result["test_accuracy"] > 0.6  # of four classes


def test_a_taught_run_goes_on_to_the_bit(taught, teacher, tmp_path):
    changes = {**CONSTANT, TEACHER: str(teacher), "optim.float_epochs": 1}
    run(tmp_path, **changes, num_epochs=2)
    run(tmp_path, **changes)
    with Checkpoints(taught, read_only=True) as want, Checkpoints(tmp_path, read_only=True) as got:
        whole, parts = want.arrays(9), got.arrays(9)
    assert whole.keys() == parts.keys()
    assert all(whole[name].tobytes() == parts[name].tobytes() for name in whole)


@pytest.mark.slow
def test_both_ways_to_map_a_step_take_a_teacher(tmp_path, teacher):
    for how in ("pmap", "shard_map"):
        config = configuration(**FLOAT, **{TEACHER: str(teacher), "parallel": how, "num_epochs": 1})
        loop.train_and_evaluate(config, tmp_path / how, devices=jax.devices()[:2])
    mapped = [without_speed(lines(tmp_path / how)) for how in ("pmap", "shard_map")]
    assert mapped[0] == mapped[1]


@pytest.mark.slow
def test_a_profile_counts_the_work_of_the_teacher(tmp_path, teacher):
    def measured(name, **changes):
        config = configuration(**{**FLOAT, "profile.steps": 1, **changes})
        return profile.profile(config, tmp_path / name, devices=jax.devices()[:1])

    alone, taught = measured("alone"), measured("taught", **{TEACHER: str(teacher)})
    # The network does as many products in its forward pass as a third of those in a step, and one twice as wide almost
    # four times as many.
    forward = alone["flops"]["compiled"] / 3
    assert 3 < (taught["flops"]["compiled"] - alone["flops"]["compiled"]) / forward < 5
    weights = sum(x.size for x in jax.tree.leaves(restore_run(None, teacher).state.params))
    assert taught["memory"]["arguments"] - alone["memory"]["arguments"] >= 4 * weights


def test_taught_runs_are_trained_together(tmp_path, teacher):
    changes = [{**FLOAT, TEACHER: str(teacher), "seed": seed, "num_epochs": 1} for seed in range(2)]
    for i, change in enumerate(changes):
        run(tmp_path / "alone" / str(i), **change)
    runs = [together.Run(configuration(**c), tmp_path / str(i), str(i)) for i, c in enumerate(changes)]
    together.train_together(runs, 2, lambda run, result: None, devices=jax.devices()[:1])
    for i in range(2):
        mine, alone = (lines(where / str(i))[0]["train_loss"] for where in (tmp_path, tmp_path / "alone"))
        assert mine == pytest.approx(alone, rel=1e-4)


def test_images_are_shared_by_runs_with_a_teacher(tmp_path, teacher):
    config = configuration(**{TEACHER: str(teacher)})
    training = loop.Training(config, tmp_path, loop.device_mesh(jax.devices()[:1]))
    data = TaughtData(training.feed()(0), training.teacher)
    stacked, axes = together._stack_data([data, data])
    assert stacked.data.images.shape == (40, 8, 8, 1) and stacked.data.order.shape == (2, 40)
    assert axes.data.images is None and axes.data.order == 0 and axes.teacher is None


@pytest.mark.parametrize("given", [False, True])
def test_a_run_keeps_its_teacher(taught, teacher, tmp_path, given):
    other = {}
    if given:
        run(tmp_path, **FLOAT, num_epochs=1)
        other = {TEACHER: str(tmp_path)}
    with pytest.raises(
        CheckpointError, match=r"another teacher: the checksum .*Give config.optim.distillation.teacher"
    ):
        run(taught, **CONSTANT, **other, **{"optim.float_epochs": 1, "num_epochs": 4})


def test_a_teacher_that_is_none_is_refused_before_the_first_step(tmp_path, teacher):
    with pytest.raises(
        CheckpointError, match=r"^config.optim.distillation.teacher=.*nowhere.: there is no checkpoint"
    ):
        run(tmp_path / "a", **{TEACHER: str(tmp_path / "nowhere")})

    def other_classes(*args):
        data = tiny_set(*args)
        splits = {"train": data.train, "validation": data.validation, "test": data.test}
        return ImageDataset(**splits, class_names=tuple("abce"), name="tiny")

    with (
        tiny_data(other_classes),
        pytest.raises(DataError, match="the teacher .* was trained on the classes a, b, c, d"),
    ):
        run(tmp_path / "b", **{TEACHER: str(teacher)})
    assert not list(tmp_path.glob("*/checkpoints/*"))
