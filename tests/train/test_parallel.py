"""The same training on one device and on many, by either interface, in one dispatch or in several; 8 virtual CPUs."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from qresnet_jax.config import default_config
from qresnet_jax.data import Split
from qresnet_jax.models.resnet import create_model
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.system.hlo import collectives
from qresnet_jax.system.machine import processors
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.batches import ResidentData
from qresnet_jax.train.checkpoints.checkpoint import tree_paths
from qresnet_jax.train.evaluator import FLOAT_BATCH as BATCH
from qresnet_jax.train.evaluator import Evaluator
from qresnet_jax.train.network import Network
from qresnet_jax.train.parallel import device_mesh, devices_for, map_train_step, replicate
from qresnet_jax.train.step import AXIS, init_state, make_train_step

IMAGES, STEPS_PER_EPOCH, STEPS = 40, 3, 4  # the third batch is filled up; the fourth begins the second epoch


def configuration(**changes):
    config = default_config()
    config.batch_size = 16
    config.data.crop_padding = 1
    config.model.depth, config.model.in_channels = 8, 1
    config.optim.hysteresis.threshold = 0.1
    config.update_from_flattened_dict(changes)
    return config


FLOAT = {"model.weight_bits": 32, "model.activation": "none"}


def prepare(devices, length=1, **changes):
    """`(dispatch, state, data)` on that many devices, `length` steps a dispatch."""
    config = configuration(**changes)
    mesh = device_mesh(jax.devices()[:devices])
    model = create_model(config.model, rngs=nnx.Rngs(0), dtype=config.dtype)
    if config.model.sync_bn:
        model.set_attributes(BatchNorm, axis_name=AXIS)
    graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
    tx = optim.optimizer(config.optim, params, STEPS, STEPS_PER_EPOCH)
    step = make_train_step(
        Network(graphdef), tx, config, num_shards=devices, steps_per_epoch=STEPS_PER_EPOCH, total_steps=STEPS
    )
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (IMAGES, 8, 8, 1), np.uint8), rng.integers(0, 10, IMAGES, np.int32)
    mean, order = np.array([127.5], np.float32), rng.permutation(IMAGES).astype(np.int32)
    data = replicate(ResidentData(images, labels, order, mean, jax.random.key(0)), mesh)
    state = replicate(init_state(params, model_state, tx), mesh)
    return map_train_step(step, mesh, config.parallel, length), state, data


def train(devices, length=1, steps=STEPS, **changes):
    """The state after `steps`."""
    dispatch, state, data = prepare(devices, length, **changes)
    for _ in range(steps // length):
        state = dispatch(state, data)
    return state


def assert_same_bits(a, b):
    a, b = tree_paths(a), tree_paths(b)
    assert a.keys() == b.keys()
    for path, x in a.items():
        assert np.asarray(x).tobytes() == np.asarray(b[path]).tobytes(), path


def assert_replicated(state, devices):
    for path, x in tree_paths(state).items():
        copies = [np.asarray(shard.data).tobytes() for shard in x.addressable_shards]
        assert len(copies) == devices and len(set(copies)) == 1, path


@pytest.fixture(scope="module")
def on_eight():
    return train(8)


def test_the_tests_have_8_devices():
    assert jax.device_count() == 8


def test_shard_map_and_pmap_give_the_same_bits(on_eight):
    state = train(8, parallel="pmap")
    assert_same_bits(state, on_eight)
    assert_replicated(state, 8)
    assert int(state.step) == STEPS and float(state.sums["images"]) == 16 * STEPS


def test_every_device_holds_the_same_state(on_eight):
    assert_replicated(on_eight, 8)


def assert_alike(state, other):
    """Up to float32's last digits, a hundred of which a step through eight batch norms can add up."""
    assert int(state.step) == int(other.step)
    for path, x in tree_paths(state).items():
        y = np.asarray(tree_paths(other)[path])
        np.testing.assert_allclose(y, x, rtol=0, atol=1e-4 * max(np.abs(x).max(), 1e-3), err_msg=path)


@pytest.mark.parametrize("remat", ["block", "convolutions"])
def test_what_is_computed_again_changes_no_more_than_last_digits(remat):
    # XLA may fuse what it computes again in another way, and then sums in another order. A float network has no
    # rounding edges that this could cross. Running statistics that moved twice in a step would differ in the first digit.
    assert_alike(train(2, **FLOAT), train(2, remat=remat, **FLOAT))


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["block", "convolutions"])
@pytest.mark.parametrize(
    "changes",
    [
        {"parallel": "pmap"},
        {"length": 2},
        {"dtype": "bfloat16"},
        {"model.sync_bn": False, **FLOAT},
        {"model.activation": "sigmoid", "model.block": "preact_basic"},
        {"model.depth": 11, "model.block": "bottleneck"},
        {"model.depth": 11, "model.block": "preact_bottleneck"},
    ],
    ids=str,
)
def test_every_form_can_compute_again(remat, changes):
    steps = changes.get("length", 1)
    assert_alike(train(2, steps=steps, **changes), train(2, steps=steps, remat=remat, **changes))


@pytest.mark.parametrize("parallel", ["shard_map", pytest.param("pmap", marks=pytest.mark.slow)])
def test_many_steps_a_dispatch_give_what_single_steps_give(parallel):
    one, many = train(2, **FLOAT), train(2, 4, parallel=parallel, **FLOAT)
    assert int(many.step) == STEPS
    assert_alike(one, many)  # XLA fuses the body of a loop in another way


@pytest.mark.parametrize("devices", [pytest.param(2, marks=pytest.mark.slow), 8])
def test_with_sync_bn_the_number_of_devices_does_not_matter(devices):
    one, many = train(1, **FLOAT), train(devices, **FLOAT)
    for path, x in tree_paths((one.params, one.model_state, one.sums)).items():
        other = np.asarray(tree_paths((many.params, many.model_state, many.sums))[path])
        # Means over devices add in another order: float32, four steps deep. A float network has no rounding edges.
        np.testing.assert_allclose(other, x, rtol=0, atol=1e-4 * max(np.abs(x).max(), 1e-3), err_msg=path)
    assert float(many.sums["images"]) == 16 * STEPS


def test_without_sync_bn_devices_normalise_alone_and_share_the_mean_of_their_statistics():
    apart = train(2, steps=1, **FLOAT, **{"model.sync_bn": False})
    together = train(2, steps=1, **FLOAT)
    assert_replicated(apart, 2)
    ours, whole = (
        {name: np.asarray(x[...], np.float64) for name, x in state.model_state["stem_norm"].items()}
        for state in (apart, together)
    )
    # The stem sees the same images and weights in both: the mean of two halves' means is the mean of all, and the
    # mean of their variances is less than the variance of all, by that of the two means.
    np.testing.assert_allclose(ours["mean"], whole["mean"], rtol=0, atol=1e-6 * np.abs(whole["mean"]).max())
    assert (ours["var"] <= whole["var"] + 1e-7).all() and (ours["var"] < whole["var"]).any()
    np.testing.assert_allclose(ours["var"], whole["var"], rtol=0.1)
    alone, common = (np.asarray(s.params["stem"]["kernel"][...]) for s in (apart, together))
    assert (alone != common).any(), "gradients differ"


@pytest.mark.parametrize("sync_bn, remat", [(True, "none"), (True, "block"), (False, "none")])
def test_devices_exchange_gradients_and_statistics_and_three_metrics(sync_bn, remat):
    dispatch, state, data = prepare(2, **FLOAT, **{"model.sync_bn": sync_bn, "remat": remat})
    found = collectives(dispatch.lower(state, data).compile().as_text())
    assert {one.kind for one in found} == {"all-reduce"}
    gradients = sum(x.nbytes for x in jax.tree.leaves(state.params))
    statistics = sum(x.nbytes for x in jax.tree.leaves(state.model_state))  # two numbers for each channel
    # With synchronised batch norm: two sums a channel in the forward pass, and two in the backward pass.
    expected = gradients + (2 if sync_bn else 1) * statistics
    assert 0 <= sum(one.nbytes for one in found) - expected <= 3 * 4


# What a program says to the host while it runs, in StableHLO.
TALKS_TO_HOST = ("callback", "infeed", "outfeed", "stablehlo.send", "stablehlo.recv")


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_a_dispatch_of_many_steps_is_one_loop_that_never_waits_for_the_host(platform):
    dispatch, state, data = prepare(1, length=2)
    program = dispatch.trace(state, data).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo.while" in program
    assert [name for name in TALKS_TO_HOST if name in program] == []


def test_the_check_sees_what_talks_to_the_host():
    def talks(x):
        jax.debug.callback(lambda x: None, x)
        return x

    program = jax.jit(talks).lower(1.0).as_text()
    assert any(name in program for name in TALKS_TO_HOST)


# ---- Evaluation --------------------------------------------------------------------------------------------


class Marker(nnx.Module):
    """Its logits say which of 10 classes the first pixel (times 64, as the mean is 0) names, so losses are known."""

    fraction_bits = None  # a float network

    def __init__(self):
        self.scale = nnx.Param(jnp.float32(1.0))

    def __call__(self, images):
        return self.scale[...] * jax.nn.one_hot((images[:, 0, 0, 0] * 64).astype(jnp.int32), 10)


@pytest.mark.parametrize("devices", [1, 3, 8])
@pytest.mark.parametrize("size", [1, 7, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 5])
def test_evaluation_counts_every_image_once(devices, size):
    rng = np.random.default_rng(size)
    pixels = rng.integers(0, 10, (size, 2, 2, 1), np.uint8)
    labels = np.where(rng.uniform(size=size) < 0.7, pixels[:, 0, 0, 0], rng.integers(0, 10, size)).astype(
        np.int32
    )
    mesh = device_mesh(jax.devices()[:devices])
    model = Marker()
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    result = Evaluator(Network(graphdef), np.zeros(1), mesh)(
        *replicate((params, rest), mesh), Split(pixels, labels)
    )
    logits = np.eye(10)[pixels[:, 0, 0, 0]]
    losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(size), labels]
    assert result["accuracy"] == (logits.argmax(1) == labels).sum() / size
    assert result["loss"] == pytest.approx(losses.mean(), rel=1e-6)


def test_a_trained_network_is_evaluated_alike_on_any_number_of_devices(on_eight):
    model = create_model(configuration().model, rngs=nnx.Rngs(0))
    graphdef = nnx.graphdef(nnx.view(model, use_running_average=True))
    rng = np.random.default_rng(3)
    split = Split(rng.integers(0, 256, (37, 8, 8, 1), np.uint8), rng.integers(0, 10, 37, np.int32))
    results = []
    for devices in (1, 8):
        mesh = device_mesh(jax.devices()[:devices])
        state = replicate((on_eight.params, on_eight.model_state), mesh)
        results.append(Evaluator(Network(graphdef), np.array([127.5]), mesh)(*state, split))
    assert results[0] == results[1]  # to the bit, as integers are


# ---- A CPU's cores -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "batch_size, cores, devices",
    [
        (128, 1, 1),
        (128, 2, 2),
        (128, 64, 4),
        (63, 2, 1),
        (64, 2, 2),
        (1, 8, 1),
        (96, 2, 2),
        (99, 2, 1),
        (99, 3, 3),
    ],
)
def test_devices_of_a_cpu(batch_size, cores, devices):
    assert devices_for(batch_size, cores) == devices


@given(st.integers(1, 4096), st.integers(1, 256))
def test_devices_of_a_cpu_share_a_batch_evenly_and_use_no_core_twice(batch_size, cores):
    devices = devices_for(batch_size, cores)
    assert 1 <= devices <= cores and batch_size % devices == 0
    assert devices == 1 or batch_size // devices >= 32
    assert devices_for(2 * batch_size, cores) >= devices


@pytest.mark.parametrize(
    "chosen, devices",
    [
        ({}, devices_for(64, processors())),
        ({"JAX_NUM_CPU_DEVICES": "1"}, 1),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, 3),
    ],
    ids=["by itself", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS"],
)
def test_cores_become_devices_unless_their_number_is_chosen(chosen, devices):
    code = "from qresnet_jax.train.parallel import cores_as_devices as f; f(64); import jax; print(jax.device_count())"
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | chosen,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.split() == [str(devices)], done.stderr
