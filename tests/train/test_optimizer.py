"""The optimizer against NumPy: groups by variable type, weight decay, clipping levels, schedules."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from qresnet_jax.config import default_config
from qresnet_jax.models.resnet import create_model
from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel, FloatKernel, NormParam
from qresnet_jax.quantize.activations import MIN_CLIPPING_LEVEL
from qresnet_jax.train import optimizer as optim

TYPES = {"kernel": BinaryKernel, "stem": nnx.Param, "gamma": NormParam, "alpha": ClippingLevel}
RTOL = 1e-5  # some ten float32 operations


def settings(**changes):
    """`config.optim` with a constant rate and no decay, unless changed by dotted name."""
    part = default_config().optim
    part.update({"schedule": "constant", "learning_rate": 0.1})
    part.update_from_flattened_dict(changes)
    return part


def parameters(seed=0):
    """One parameter of each type, float32."""
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 3, 2, 4), "stem": (5,), "gamma": (4,), "alpha": ()}
    values = {name: jnp.float32(rng.normal(1, 2, shape)) for name, shape in shapes.items()}
    values["alpha"] = jnp.float32(2.5)
    return nnx.State({name: TYPES[name](value) for name, value in values.items()})


def arrays(tree):
    return {
        path[0]: np.asarray(x[...], np.float64) for path, x in nnx.to_flat_state(tree) if jax.tree.leaves(x)
    }


def gradients(params, seed=1):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.float32(rng.normal(0, 1, p.shape)), params)


def train(part, params, grads, total_steps=100, steps_per_epoch=10):
    """The params after updates with each of `grads`, and the last state."""
    tx = optim.optimizer(part, params, total_steps, steps_per_epoch)
    state = tx.init(params)
    for g in grads:
        updates, state = jax.jit(tx.update)(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def latents(state):
    return arrays(state[-1].inner_states["binary"].inner_state.latent)["kernel"]


# ---- Groups ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["pact", "lsq", "power_of_two", "sigmoid", "fixed", "none"])
@pytest.mark.parametrize("block", ["basic", "preact_bottleneck"])
@pytest.mark.parametrize("weight_bits", [1, 32])
def test_every_parameter_of_every_network_has_the_group_of_its_type(activation, block, weight_bits):
    config = default_config().model
    config.update({"activation": activation, "block": block, "weight_bits": weight_bits})
    config.depth = 8 if block == "basic" else 11
    model = nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(0)))
    groups = dict(nnx.to_flat_state(optim.labels(nnx.state(model, nnx.Param))))
    want = {}
    for path, variable in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        is_norm = any("norm" in str(part) for part in path)
        is_conv = "convs" in path or "project" in path
        want[path] = "norm" if is_norm else "clipping_level" if path[-1] == "alpha" else "float"
        want[path] = "binary" if weight_bits == 1 and is_conv else want[path]
        assert groups[path] == want[path], (path, type(variable))
    assert groups.keys() == want.keys()
    assert {"norm", "float"} <= set(want.values())


def test_a_variable_of_a_foreign_type_is_refused_by_its_path():
    class Foreign(nnx.Variable):
        pass

    params = nnx.State({"stages": nnx.State({"odd": Foreign(jnp.zeros(2))})})
    with pytest.raises(TypeError, match=r"no parameter group for \['stages'\]\['odd'\] of type Foreign"):
        optim.labels(params)


def test_a_subtype_belongs_to_the_group_of_its_parent():
    class Special(BinaryKernel):
        pass

    assert optim.labels(nnx.State({"k": Special(jnp.zeros(2))}))["k"] == "binary"


# ---- One update against NumPy ------------------------------------------------------------------------------


def test_the_rate_of_latent_weights_changes_when_the_weights_become_binary():
    part = settings(**{"latent_rate": 3.0, "float_epochs": 2, "momentum": 0.0})
    start = parameters()
    tx = optim.optimizer(part, start, total_steps=10, steps_per_epoch=2)
    state, params, grads = tx.init(start), start, gradients(start, 1)
    rates, others = [], []
    for _ in range(6):
        before, stem = latents(state), arrays(params)["stem"]
        updates, state = tx.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        rates.append(np.mean((before - latents(state)) / arrays(grads)["kernel"]))
        others.append(np.mean((stem - arrays(params)["stem"]) / arrays(grads)["stem"]))
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.1, 0.1, 0.3, 0.3], rtol=1e-4)
    np.testing.assert_allclose(others, [0.1] * 6, rtol=1e-4)


def test_sgd_with_momentum_decays_weights_but_not_norms_and_clipping_levels():
    part = settings(**{"weight_decay": 0.2, "clipping_level.learning_rate": 0.03, "clipping_level.l2": 0.4})
    part.hysteresis.threshold = 0.5
    start = parameters()
    grads = [gradients(start, seed) for seed in (1, 2, 3)]
    got, state = train(part, start, grads)

    p = arrays(start)
    sign = np.where(p["kernel"] >= 0, 1.0, -1.0)
    velocity = dict.fromkeys(p, 0.0)
    decay = {"kernel": 0.2, "stem": 0.2, "gamma": 0.0, "alpha": 0.4}
    rate = {"kernel": 0.1, "stem": 0.1, "gamma": 0.1, "alpha": 0.03}
    for g in map(arrays, grads):
        for name in p:
            velocity[name] = 0.9 * velocity[name] + g[name] + decay[name] * p[name]
            p[name] = p[name] - rate[name] * velocity[name]  # of the kernel: the latent weights
        size = np.abs(p["kernel"]).mean()
        sign = np.where(p["kernel"] >= 0.5 * size, 1, np.where(p["kernel"] <= -0.5 * size, -1, sign))
    np.testing.assert_allclose(latents(state), p["kernel"], rtol=RTOL, atol=RTOL)
    for name, want in (p | {"kernel": size * sign}).items():
        np.testing.assert_allclose(arrays(got)[name], want, rtol=RTOL, atol=RTOL, err_msg=name)


def test_each_kernel_is_binary_by_its_own_scale():
    params = parameters()
    params["other"] = BinaryKernel(
        jnp.float32(np.random.default_rng(5).normal(size=(3, 3, 4, 2))), weight_scale="channel"
    )
    got, state = train(settings(), params, [gradients(params, seed) for seed in (1, 2)])
    latent = arrays(state[-1].inner_states["binary"].inner_state.latent)
    for name, axes in (("kernel", None), ("other", (0, 1, 2))):
        size = np.abs(latent[name]).mean(axes)
        np.testing.assert_allclose(np.abs(arrays(got)[name]), size * np.ones_like(latent[name]), rtol=RTOL)


def test_adamw_decays_latent_weights_not_what_the_network_computes_with():
    part = settings(name="adamw", weight_decay=0.2)
    start = parameters()
    grads = [gradients(start, seed) for seed in (1, 2, 3)]
    got, state = train(part, start, grads)

    for name, decay in (("kernel", 0.2), ("stem", 0.2), ("gamma", 0.0)):
        p, m, v = arrays(start)[name], 0.0, 0.0
        for t, g in enumerate((arrays(g)[name] for g in grads), 1):
            m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
            direction = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            p = p - 0.1 * (direction + decay * p)
        if name == "kernel":
            np.testing.assert_allclose(latents(state), p, rtol=1e-4, atol=1e-4)  # float32 1 - 0.999**t: 1e-4
            p = np.abs(p).mean() * np.where(p >= 0, 1, -1)
        np.testing.assert_allclose(arrays(got)[name], p, rtol=1e-4, atol=1e-4, err_msg=name)


def orthogonal64(matrix):
    """Five Newton-Schulz steps in float64, with the coefficients of Jordan et al. 2024."""
    wide = matrix.shape[0] < matrix.shape[1]
    x = matrix.T if wide else matrix
    x = x / (np.linalg.norm(x) + 1e-8)
    for _ in range(5):
        gram = x.T @ x
        x = 3.4445 * x + x @ (-4.7750 * gram + 2.0315 * gram @ gram)
    return x.T if wide else x


@pytest.mark.parametrize("kind", [BinaryKernel, FloatKernel])
def test_muon_makes_the_momentum_of_kernels_orthogonal_and_is_sgd_elsewhere(kind):
    part = settings(name="muon", weight_decay=0.2, latent_rate=2.0)
    part.muon.update({"learning_rate": 0.3, "momentum": 0.8})
    start = parameters()
    start["kernel"] = kind(start["kernel"][...])
    grads = [gradients(start, seed) for seed in (1, 2, 3)]
    got, state = train(part, start, grads)

    kernel, average = arrays(start)["kernel"], 0.0
    for t, g in enumerate((arrays(g)["kernel"] for g in grads), 1):
        average = 0.8 * average + 0.2 * g
        ahead = 0.8 * average / (1 - 0.8 ** (t + 1)) + 0.2 * g / (1 - 0.8**t)
        step = orthogonal64(ahead.reshape(-1, ahead.shape[-1])).reshape(ahead.shape)
        kernel = kernel - (0.6 if kind is BinaryKernel else 0.3) * step
    moved = latents(state) if kind is BinaryKernel else arrays(got)["kernel"]
    np.testing.assert_allclose(moved, kernel, rtol=1e-3, atol=1e-4)
    plain, _ = train(settings(weight_decay=0.2), start, grads)
    for name in ("stem", "gamma", "alpha"):
        np.testing.assert_array_equal(arrays(got)[name], arrays(plain)[name], err_msg=name)


def test_muon_moves_all_directions_of_a_kernel_alike_however_large_the_gradients_are():
    part = settings(name="muon")
    start = parameters()
    start["kernel"] = FloatKernel(jnp.float32(np.random.default_rng(0).normal(size=(3, 3, 2, 4))))
    for size in (1e-6, 1.0, 1e6):
        grads = jax.tree.map(lambda g, size=size: g * size, gradients(start))
        got, _ = train(part, start, [grads])
        moved = (arrays(got)["kernel"] - arrays(start)["kernel"]).reshape(-1, 4)
        sizes = np.linalg.svd(moved, compute_uv=False) / part.muon.learning_rate
        assert 0.6 < sizes.min() <= sizes.max() < 1.3


def test_without_muon_the_state_has_the_groups_that_it_always_had():
    state = optim.optimizer(settings(), parameters(), 10, 1).init(parameters())
    assert state[-1].inner_states.keys() == {"binary", "float", "norm", "clipping_level"}


def test_muon_takes_every_kernel_inside_a_network_and_neither_its_first_layer_nor_its_classifier():
    for weight_bits in (1, 32):
        config = default_config().model
        config.depth, config.weight_bits = 8, weight_bits
        model = nnx.eval_shape(lambda config=config: create_model(config, rngs=nnx.Rngs(0)))
        groups = dict(nnx.to_flat_state(optim.labels(nnx.state(model, nnx.Param), optim.MUON_GROUPS)))
        name = "binary" if weight_bits == 1 else "float_kernel"
        inside = {path for path, group in groups.items() if group == name}
        assert inside == {path for path in groups if path[0] == "stages" and path[-1] == "kernel"}
        assert groups["stem", "kernel"] == groups["classifier", "kernel"] == "float"


def test_gradients_are_clipped_by_the_norm_over_all_groups():
    part = settings(gradient_clip=0.5, momentum=0.0)
    part.clipping_level.update({"learning_rate": 0.1, "l2": 0.0})
    start = parameters()
    grads = gradients(start)
    norm = math.sqrt(sum((g**2).sum() for g in arrays(grads).values()))
    assert norm > 0.5
    got, state = train(part, start, [grads])
    for name in ("stem", "gamma", "alpha"):
        want = arrays(start)[name] - 0.1 * arrays(grads)[name] * 0.5 / norm
        np.testing.assert_allclose(arrays(got)[name], want, rtol=RTOL, err_msg=name)
    want = arrays(start)["kernel"] - 0.1 * arrays(grads)["kernel"] * 0.5 / norm
    np.testing.assert_allclose(latents(state), want, rtol=RTOL)


def test_small_gradients_are_not_clipped():
    start = parameters()
    small = jax.tree.map(lambda g: 1e-3 * g, gradients(start))
    results = [train(settings(gradient_clip=clip), start, [small])[0] for clip in (0.0, 0.5)]
    for a, b in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
@pytest.mark.parametrize("size", [1.0, 1e4, 1e30])
def test_clipping_levels_stay_above_the_minimum_and_can_return(name, size):
    start = parameters()
    adverse = jax.tree.map(lambda p: jnp.full(p.shape, jnp.float32(size)), start)
    got, _ = train(settings(name=name, momentum=0.0), start, [adverse] * 300)
    # One unit of float32 below: p + (minimum - p) is rounded twice.
    assert MIN_CLIPPING_LEVEL - 1e-9 <= arrays(got)["alpha"] <= MIN_CLIPPING_LEVEL + 1e-9
    helpful = jax.tree.map(lambda p: jnp.full(p.shape, jnp.float32(-1)), start)
    back, _ = train(settings(name=name), got, [helpful])
    assert arrays(back)["alpha"] > MIN_CLIPPING_LEVEL + 0.009


# ---- Schedules ---------------------------------------------------------------------------------------------


def course(total=1000, steps_per_epoch=10, **changes):
    schedule = optim.schedule(settings(**changes), total, steps_per_epoch)
    return np.array(jax.vmap(schedule)(jnp.arange(total)), np.float64)


def test_cosine_falls_from_1_to_0():
    want = [0.5 * (1 + math.cos(math.pi * step / 1000)) for step in range(1000)]
    np.testing.assert_allclose(course(schedule="cosine"), want, atol=1e-6)
    assert optim.schedule(settings(schedule="cosine"), 1000, 10)(1000) == 0


@pytest.mark.parametrize("warmup", [0.0, 2.0])
@pytest.mark.parametrize("total", [1000, 70])
def test_step_divides_by_10_at_30_60_and_90_percent(total, warmup):
    got = course(total, schedule="step", warmup_epochs=warmup)
    first = int(warmup * 10)
    for step in range(first, total):
        drops = sum(step >= round(share * total) for share in (0.3, 0.6, 0.9))
        assert got[step] == pytest.approx(0.1**drops, rel=1e-6), step


def test_constant_stays():
    assert (course(schedule="constant") == 1).all()


@pytest.mark.parametrize("schedule", ["cosine", "step", "constant"])
def test_warm_up_rises_linearly_inside_the_total(schedule):
    got = course(total=100, schedule=schedule, warmup_epochs=2.5)  # 25 steps
    np.testing.assert_allclose(got[:25], np.arange(1, 26) / 26, rtol=1e-6)
    assert got[25] == 1 and (got <= 1).all()
    if schedule == "cosine":
        want = [0.5 * (1 + math.cos(math.pi * step / 75)) for step in range(75)]
        np.testing.assert_allclose(got[25:], want, atol=1e-6)


def test_the_rate_of_both_optimizers_and_of_clipping_levels_follows_the_schedule():
    part = settings(schedule="step", momentum=0.0)
    part.clipping_level.update({"learning_rate": 0.01, "l2": 0.0})
    start = parameters()
    ones = jax.tree.map(lambda p: jnp.ones(p.shape, jnp.float32), start)
    got, _ = train(part, start, [ones] * 10, total_steps=10)
    steps = 3 * 1 + 3 * 0.1 + 3 * 0.01 + 1 * 0.001
    np.testing.assert_allclose(arrays(got)["gamma"], arrays(start)["gamma"] - 0.1 * steps, rtol=RTOL)
    np.testing.assert_allclose(arrays(got)["alpha"], arrays(start)["alpha"] - 0.01 * steps, rtol=RTOL)
