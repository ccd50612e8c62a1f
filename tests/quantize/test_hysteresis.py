import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.nn.activations import PACT
from qresnet_jax.nn.convolutions import BinaryConv
from qresnet_jax.nn.variables import BinaryKernel
from qresnet_jax.quantize.hysteresis import hysteresis_binarize
from qresnet_jax.quantize.weights import SCALES

SHAPE = (2, 2, 2, 4)


class Loop:
    """The loop in NumPy, with one Python branch per weight; `latent` in the dtype it is given."""

    def __init__(self, latent):
        self.latent, self.sign = latent, np.where(latent >= 0, 1, -1)

    def scale(self, scale):
        axes = None if scale == "layer" else tuple(range(self.latent.ndim - 1))
        return np.broadcast_to(np.abs(self.latent).mean(axes), self.latent.shape)

    def step(self, update, threshold, relative=True, scale="layer"):
        self.latent = self.latent + update
        s = self.scale(scale)
        for index, w in np.ndenumerate(self.latent):
            t = threshold * s[index] if relative else threshold
            if w >= t:
                self.sign[index] = 1
            elif w <= -t:
                self.sign[index] = -1
        return s * self.sign


def dyadic(rng, unit, size=40):
    """Small multiples of a power of two: float32 adds, averages (32 and 8 of them) and compares them exactly."""
    return rng.integers(-size, size + 1, SHAPE) * unit


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**32 - 1),
    threshold=st.sampled_from([0.0, 0.125, 0.5, 1.0, 2.0]),
    relative=st.booleans(),
    scale=st.sampled_from(["layer", "channel"]),
)
def test_random_walks_follow_the_loop_exactly(seed, threshold, relative, scale):
    rng, unit = np.random.default_rng(seed), 2.0**-6
    start = dyadic(rng, unit)
    loop, params = Loop(start), jnp.float32(start)
    tx = hysteresis_binarize(threshold, relative, scale)
    state = tx.init(params)
    np.testing.assert_array_equal(state.latent, start)
    np.testing.assert_array_equal(state.sign, loop.sign)
    for _ in range(8):
        update = dyadic(rng, unit, size=25)
        expected = loop.step(update, threshold, relative, scale)
        emitted, state = tx.update(jnp.float32(update), state, params)
        params = optax.apply_updates(params, emitted)
        np.testing.assert_array_equal(state.sign, loop.sign)
        np.testing.assert_array_equal(state.latent, loop.latent)
        # the emitted difference is rounded once, the params again: 1e-7 of numbers up to 1
        np.testing.assert_allclose(params, expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32 - 1), threshold=st.floats(0, 3, width=32))
def test_signs_flip_only_past_the_threshold(seed, threshold):
    rng = np.random.default_rng(seed)
    params = jnp.float32(rng.normal(size=SHAPE))
    tx = hysteresis_binarize(threshold)
    state = tx.init(params)
    for _ in range(5):
        before = np.asarray(state.sign)
        emitted, state = tx.update(jnp.float32(rng.normal(size=SHAPE)), state, params)
        params = optax.apply_updates(params, emitted)
        latent, after = np.asarray(state.latent, np.float64), np.asarray(state.sign)
        t = threshold * np.abs(latent).mean()
        slack = 1e-5 * np.abs(latent).mean()  # t is computed in float32
        assert np.all(np.abs(latent[before != after]) >= t - slack)
        assert np.all(after[latent >= t + slack] == 1)
        assert np.all(after[latent <= -t - slack] == -1)


def test_threshold_zero_the_default_is_the_plain_sign_with_sign_of_zero_plus_one():
    params = jnp.float32([-1.0, -0.5, 0.5, 1.0, 2.0])
    tx = hysteresis_binarize()
    _, state = tx.update(jnp.float32([1.0, 0.25, -0.5, -2.0, 0.0]), tx.init(params), params)
    np.testing.assert_array_equal(state.latent, [0, -0.25, 0, -1, 2])
    np.testing.assert_array_equal(state.sign, [1, -1, 1, -1, 1])


def test_the_threshold_itself_flips():
    params = jnp.float32([1.0, -1.0, 1.0, -1.0])
    tx = hysteresis_binarize(0.5, relative=False)
    _, state = tx.update(jnp.float32([-1.5, 1.5, -1.25, 1.25]), tx.init(params), params)
    np.testing.assert_array_equal(state.sign, [-1, 1, 1, -1])  # latents -0.5, 0.5 flip; -0.25, 0.25 do not


@pytest.mark.parametrize("scale, axes", [("layer", None), ("channel", (0, 1, 2))])
def test_one_update_makes_the_params_binary(scale, axes):
    rng = np.random.default_rng(0)
    params = jnp.float32(rng.normal(0, 0.05, (3, 3, 5, 7)))
    tx = hysteresis_binarize(scale=scale)
    emitted, state = tx.update(jnp.float32(rng.normal(0, 0.01, params.shape)), tx.init(params), params)
    s = np.abs(np.asarray(state.latent, np.float64)).mean(axes)
    np.testing.assert_allclose(params + emitted, s * state.sign, atol=1e-6)  # float32 mean and subtraction


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_latents_are_float32_and_signs_int8_whatever_the_params(dtype):
    params = {"a": jnp.ones((1, 1, 2, 3), dtype)}
    tx = hysteresis_binarize()
    emitted, after = tx.update(params, tx.init(params), params)
    assert emitted["a"].dtype == dtype
    for state in (tx.init(params), after):
        assert (state.latent["a"].dtype, state.sign["a"].dtype) == (jnp.float32, jnp.int8)
        assert state.latent["a"].shape == state.sign["a"].shape == (1, 1, 2, 3)


def test_a_scheduled_threshold_is_read_at_each_step():

    def schedule(step):
        return jnp.where(step < 2, 4.0, 0.25)

    rng = np.random.default_rng(1)
    start = dyadic(rng, 2.0**-6)
    loop, params, tx = Loop(start), jnp.float32(start), hysteresis_binarize(schedule)
    state = tx.init(params)
    for step in range(4):
        update = dyadic(rng, 2.0**-6)
        loop.step(update, 4.0 if step < 2 else 0.25)
        _, state = tx.update(jnp.float32(update), state, params)
        np.testing.assert_array_equal(state.sign, loop.sign)
    assert state.count == 4


def decayed_momentum(decay=0.5, learning_rate=0.125, momentum=0.5):
    return optax.chain(optax.add_decayed_weights(decay), optax.sgd(learning_rate, momentum=momentum))


@pytest.mark.parametrize("inside", [True, False])
def test_weight_decay_sees_the_latents_inside_and_the_params_in_a_chain(inside):
    hysteresis = hysteresis_binarize(0.25, inner=decayed_momentum() if inside else None)
    tx = hysteresis if inside else optax.chain(decayed_momentum(), hysteresis)
    rng = np.random.default_rng(2)
    start = rng.normal(size=SHAPE).astype(np.float32)
    loop, params, trace = Loop(start.astype(np.float64)), jnp.float32(start), np.zeros(SHAPE)
    seen, other = loop.latent, []
    state = tx.init(params)
    for _ in range(5):
        gradient = rng.normal(size=SHAPE).astype(np.float32)
        trace = 0.5 * trace + gradient + 0.5 * seen
        binary = loop.step(-0.125 * trace, 0.25)
        seen = loop.latent if inside else binary
        other.append(np.abs(loop.latent - binary).max())
        emitted, state = tx.update(jnp.float32(gradient), state, params)
        params = optax.apply_updates(params, emitted)
    final = state if inside else state[-1]
    # five float32 steps on numbers around 1
    np.testing.assert_allclose(final.latent, loop.latent, atol=1e-5)
    np.testing.assert_array_equal(final.sign, loop.sign)
    np.testing.assert_allclose(params, binary, atol=1e-5)
    assert min(other) > 0.1  # latents and params differ, so the two cases do


def test_adamw_inside_moves_the_latents_as_adamw_alone_moves_floats():
    rng = np.random.default_rng(3)
    params = alone = jnp.float32(rng.normal(size=SHAPE))
    adamw = optax.adamw(0.1, weight_decay=0.1)
    tx = hysteresis_binarize(0.1, inner=adamw)
    state, alone_state = tx.init(params), adamw.init(alone)
    for _ in range(4):
        gradient = jnp.float32(rng.normal(size=SHAPE))
        emitted, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, emitted)
        updates, alone_state = adamw.update(gradient, alone_state, alone)
        alone = optax.apply_updates(alone, updates)
    np.testing.assert_array_equal(state.latent, alone)


class Small(nnx.Module):
    def __init__(self, rngs):
        self.conv = BinaryConv(3, 5, 3, rngs=rngs)
        self.act = PACT(2)
        self.linear = nnx.Linear(5, 2, rngs=rngs)


def test_partition_routes_by_variable_type_and_compiles_once():
    params = nnx.state(Small(nnx.Rngs(0)), nnx.Param)
    labels = jax.tree.map(lambda v: type(v).__name__, params, is_leaf=lambda v: isinstance(v, nnx.Variable))
    routes = {
        "BinaryKernel": hysteresis_binarize(0.1, inner=optax.sgd(0.5)),
        "ClippingLevel": optax.sgd(0.25),
        "Param": optax.sgd(1.0),
    }
    tx, traces = optax.partition(routes, labels), []

    @jax.jit
    def step(params, state, gradients):
        traces.append(None)
        updates, state = tx.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    gradients = jax.tree.map(jnp.ones_like, params)
    latent = np.asarray(params["conv"]["kernel"][...], np.float64)
    start, state, current = params, tx.init(params), params
    for _ in range(3):
        current, state = step(current, state, gradients)
    assert len(traces) == 1
    latent = latent - 3 * 0.5
    kernel = np.asarray(current["conv"]["kernel"][...])
    np.testing.assert_allclose(kernel, np.abs(latent).mean() * np.sign(latent), rtol=1e-6)  # a float32 mean
    np.testing.assert_array_equal(current["act"]["alpha"][...], 3 - 3 * 0.25)
    np.testing.assert_array_equal(
        current["linear"]["kernel"][...], start["linear"]["kernel"][...] - 1.0 - 1.0 - 1.0
    )


def test_an_update_without_params_is_refused():
    tx = hysteresis_binarize()
    w = jnp.ones((1, 1, 2, 2))
    with pytest.raises(
        ValueError, match=r"hysteresis_binarize needs the params: call update\(updates, state, params"
    ):
        tx.update(w, tx.init(w))


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), np.float32(-1)])
def test_a_threshold_that_is_not_at_least_0_is_refused(threshold):
    with pytest.raises(ValueError, match=f"hysteresis threshold must be >= 0, got {threshold}"):
        hysteresis_binarize(threshold)


@pytest.mark.parametrize("threshold", [0.3, lambda step: 0.3])
def test_the_threshold_can_be_an_injected_hyperparameter(threshold):
    w, u = (jax.random.normal(jax.random.key(i), SHAPE) for i in (0, 1))
    injected, plain = optax.inject_hyperparams(hysteresis_binarize)(threshold), hysteresis_binarize(0.3)
    updates, state = jax.jit(injected.update)(u, injected.init(w), w)
    expected, _ = plain.update(u, plain.init(w), w)
    np.testing.assert_allclose(updates, expected, rtol=1e-6)
    assert state.hyperparams["threshold"] == np.float32(0.3)


def test_extra_arguments_reach_the_inner_transformation():
    seen = []

    def update(updates, state, params=None, *, value, **extra):
        seen.append(value)
        return updates, state

    inner = optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)
    w = jnp.ones(SHAPE)
    tx = optax.partition({"binary": hysteresis_binarize(inner=inner)}, "binary")
    tx.update(w, tx.init(w), w, value=7, grad=None)
    assert seen == [7]


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be one of .*, got 'kernel'"):
        hysteresis_binarize(scale="kernel").init(jnp.ones((1, 1, 2, 2)))


# ---- Each variable's own scale -----------------------------------------------------------------------------


class Mixed(nnx.Module):
    """One layer per scale."""

    def __init__(self, rngs):
        self.first = BinaryConv(3, 6, 3, scale="layer", rngs=rngs)
        self.second = BinaryConv(6, 5, 3, scale="channel", rngs=rngs)

    def __call__(self, x):
        return self.second(nnx.relu(self.first(x)))


AXES = {"first": None, "second": (0, 1, 2)}


def assert_binary_by_their_own_scales(params, latent, signs):
    for name, axes in AXES.items():
        size = np.abs(np.asarray(latent[name]["kernel"][...], np.float64)).mean(axes)
        expected = size * np.asarray(signs[name]["kernel"][...])
        np.testing.assert_allclose(
            params[name]["kernel"][...], expected, atol=1e-6
        )  # float32 mean, difference


def mixed_loss(model, x):
    return jnp.sum(jnp.square(model(x) - 1))


@pytest.mark.parametrize("threshold", [0.0, 0.3])
def test_a_mixed_network_trains_and_each_layer_has_its_own_scale(threshold):
    model, x = Mixed(nnx.Rngs(0)), jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
    graphdef, params = nnx.split(model, nnx.Param)
    tx = hysteresis_binarize(threshold, inner=optax.sgd(1e-3))
    state, losses = tx.init(params), []
    for _ in range(4):
        loss, grads = jax.value_and_grad(lambda params: mixed_loss(nnx.merge(graphdef, params), x))(params)
        emitted, state = jax.jit(tx.update)(grads, state, params)
        params = optax.apply_updates(params, emitted)
        losses.append(loss)
        assert_binary_by_their_own_scales(params, state.latent, state.sign)
    assert losses[-1] < losses[0]
    assert len(np.unique(np.abs(params["first"]["kernel"][...]).round(6))) == 1
    assert len(np.unique(np.abs(params["second"]["kernel"][...]).round(6))) == 5


def test_flax_hands_over_plain_arrays_and_each_layer_still_has_its_own_scale():
    model, x = Mixed(nnx.Rngs(0)), jax.random.normal(jax.random.key(1), (2, 6, 6, 3))
    routes = {"binary": hysteresis_binarize(0.1, inner=optax.sgd(1e-3))}
    params = nnx.state(model, nnx.Param)
    labels = jax.tree.map(lambda _: "binary", params, is_leaf=lambda v: isinstance(v, nnx.Variable))
    optimizer = nnx.Optimizer(model, optax.partition(routes, labels), wrt=nnx.Param)

    @nnx.jit
    def step(model, optimizer):
        optimizer.update(model, nnx.grad(mixed_loss)(model, x))

    for _ in range(3):
        step(model, optimizer)
    state = optimizer.opt_state.inner_states["binary"].inner_state
    assert_binary_by_their_own_scales(nnx.state(model, nnx.Param), state.latent, state.sign)


def test_layer_and_variable_say_the_same():
    conv = BinaryConv(3, 5, 3, scale="channel", rngs=nnx.Rngs(0))
    assert conv.kernel.weight_scale == conv.scale == "channel"
    again = nnx.merge(*nnx.split(conv))
    assert again.kernel.weight_scale == again.scale == "channel"
    assert BinaryKernel(jnp.zeros((1, 1, 2, 2))).weight_scale == "layer"


@pytest.mark.parametrize("own, given", [("layer", "channel"), ("channel", "layer")])
def test_a_scale_that_contradicts_a_variables_own_is_refused(own, given):
    params = nnx.state(BinaryConv(3, 5, 3, scale=own, rngs=nnx.Rngs(0)), nnx.Param)
    message = f"hysteresis_binarize has scale='{given}', but .*kernel.* has weight_scale='{own}'"
    with pytest.raises(ValueError, match=message):
        hysteresis_binarize(scale=given).init(params)
    plain = hysteresis_binarize(scale=own)
    plain.update(params, plain.init(params), params)


def test_a_transformation_serves_one_network():
    layer, channel = (
        nnx.state(BinaryConv(3, 5, 3, scale=scale, rngs=nnx.Rngs(0)), nnx.Param) for scale in SCALES
    )
    tx = hysteresis_binarize()
    tx.init(layer)
    with pytest.raises(
        ValueError, match="has weight_scale='channel', but had 'layer'.*once for each network"
    ):
        tx.init(channel)


def test_a_kernel_of_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="scale must be one of .*, got 'kernel'"):
        BinaryKernel(jnp.zeros((1, 1, 2, 2)), weight_scale="kernel")


def test_groups_of_a_partition_may_name_the_scales_of_their_own_kernels():
    params = nnx.state(Mixed(nnx.Rngs(0)), nnx.Param)
    labels = jax.tree.map(lambda v: v.weight_scale, params, is_leaf=lambda v: isinstance(v, nnx.Variable))
    tx = optax.partition({scale: hysteresis_binarize(scale=scale) for scale in SCALES}, labels)
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(params), params)
    for name, axes in AXES.items():
        kernel = np.asarray(params[name]["kernel"][...], np.float64)
        expected = np.abs(kernel).mean(axes) * np.where(kernel >= 0, 1, -1)
        np.testing.assert_allclose(kernel + updates[name]["kernel"][...], expected, atol=1e-6)
