import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax import nn
from qresnet_jax.quantize import registry
from qresnet_jax.ship import nodes, trained
from qresnet_jax.ship.thresholds import find_thresholds, fold_quantizer

RNGS = nnx.Rngs(0)


# The trained formula in float64, written down once more.


def batch_norm64(norm, x):
    if norm is None:
        return x
    mean, var, gamma, beta = (
        np.asarray(v[...], np.float64) for v in (norm.mean, norm.var, norm.scale, norm.bias)
    )
    return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta


def clipping_level(act):
    if isinstance(act, nn.Fixed | nn.Sigmoid):
        return 2.0**act.bits - 1
    return max(float(act.alpha[...]), float(np.float32(0.01)))


def step64(act):
    n = 2**act.bits - 1
    return clipping_level(act) / (2.0 ** (n - 1) if isinstance(act, nn.PowerOfTwo) else n)


def level64(act, x):
    """The integer level of x: the nearest, at ties the even one, or with powers of two the lower one."""
    n, alpha = 2**act.bits - 1, clipping_level(act)
    x = np.clip(x, 0, alpha)
    if not isinstance(act, nn.PowerOfTwo):
        return np.round(x * (n / alpha))
    grid = np.array([0, *2.0 ** np.arange(n)])
    return grid[np.abs(x[..., None] / step64(act) - grid).argmin(-1)]


def scale64(conv):
    size = np.abs(np.asarray(conv.kernel[...], np.float64))
    return size.mean() if conv.scale == "layer" else size.mean((0, 1, 2))


def staircases(model, network):
    """`(thresholds node, batch norm, quantizer, factor, bound)` of all quantizers, in the order of the network."""
    found = []
    for stage in model.stages:
        for block in stage:
            preact = type(block).__name__ == "PreactBlock"
            unit = 2.0**-network.fraction_bits
            found.append((block.norms[0] if preact else None, block.acts[0], unit, 2**15))
            for i, conv in enumerate(list(block.convs)[:-1]):
                factor = scale64(conv) * step64(block.acts[i])
                kh, kw, features, _ = conv.kernel.shape
                bound = int(level64(block.acts[i], np.array([1e9]))[0]) * kh * kw * features
                norm = block.norms[i + 1] if preact else block.norms[i]
                found.append((norm, block.acts[i + 1], factor, bound))
    folded = [node for node in network.nodes if isinstance(node, nodes.ThresholdsNode)]
    return [(node, *rest) for node, rest in zip(folded, found, strict=True)]


def folded(norm, act, unit, bound):
    return fold_quantizer(act, unit, *trained.affine(norm), bound)


def levels_of(node, x):
    """A `ThresholdsNode` by its definition, one comparison after the other."""
    passed = sum((node.direction * x >= t).astype(int) for t in node.thresholds.T)
    return node.levels[passed]


def assert_same_staircase(node, norm, act, factor, bound):
    """Over all reachable integers, or 40,000 of them and all that stand at a threshold."""
    channels = 1 if norm is None else norm.mean.shape[0]
    x = np.arange(-bound, bound + 1) if bound <= 20_000 else np.linspace(-bound, bound, 40_000).astype(int)
    x = np.broadcast_to(x[:, None], (len(x), channels))
    edges = np.concatenate([(node.direction * (node.thresholds + d).T) for d in (-1, 0, 1)])
    x = np.concatenate([x, np.clip(np.broadcast_to(edges, (len(edges), channels)), -bound, bound)])
    expected = level64(act, np.broadcast_to(batch_norm64(norm, x * factor), x.shape))
    np.testing.assert_array_equal(levels_of(node, x), expected)


def test_every_threshold_is_where_the_formula_in_float64_steps(trained):
    model, network = trained
    for staircase in staircases(model, network):
        assert_same_staircase(*staircase)


def test_networks_have_falling_rising_and_constant_channels(trained_named):
    for _, norm, *_ in staircases(*trained_named("basic pact"))[1::2]:
        assert {-1, 0, 1} == set(np.sign(norm.scale[...]).astype(int).tolist())


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(registry.QUANTIZERS)),
    st.integers(1, 8),
    st.integers(1, 3000),
    st.integers(0, 2**32 - 1),
    st.booleans(),
)
def test_thresholds_hold_for_all_accumulators(name, bits, bound, seed, has_norm):
    rng, channels = np.random.default_rng(seed), 5
    act = nn.activation(name, min(bits, 4) if name == "power_of_two" else bits)
    if hasattr(act, "alpha"):
        act.alpha[...] = jnp.float32(10.0 ** rng.uniform(-3, 2))
    factor, norm = 10.0 ** rng.uniform(-3, 1), None
    if has_norm:
        norm = nn.BatchNorm(channels, rngs=RNGS)
        norm.mean[...] = jnp.float32(rng.normal(0, bound * factor, channels))
        norm.var[...] = jnp.float32(10.0 ** rng.uniform(-9, 3, channels))
        norm.scale[...] = jnp.float32(rng.normal(0, 1, channels) * rng.integers(0, 2, channels))
        norm.bias[...] = jnp.float32(rng.normal(0, 2, channels))
        factor = factor * rng.uniform(0.5, 2, channels)
    node = folded(norm, act, factor, bound)
    assert np.all(np.diff(node.thresholds) >= 0)
    assert np.all(np.abs(node.thresholds) <= bound + 1)
    assert_same_staircase(node, norm, act, factor, bound)


def test_ties_round_to_even_as_in_training():
    act = nn.Fixed(2)
    node = folded(None, act, 2.0**-8, 2**15)
    assert node.thresholds.tolist() == [[129, 384, 641]]  # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
    x = np.arange(-1000, 1000)
    np.testing.assert_array_equal(levels_of(node, x), act(jnp.float32(x * 2.0**-8)))


def test_power_of_two_ties_go_down_as_in_training():
    act = nn.PowerOfTwo(2)
    act.alpha[...] = jnp.float32(4)
    node = folded(None, act, 0.25, 40)
    assert node.levels.tolist() == [0, 1, 2, 4]
    assert node.thresholds.tolist() == [[3, 7, 13]]  # 0.5, 1.5 and 3 stay below
    x = np.arange(-40, 41)
    np.testing.assert_array_equal(levels_of(node, x) * act.step, act(jnp.float32(x * 0.25)))


@pytest.mark.parametrize("bias, level", [(-1.0, 0), (1.2, 1), (9.0, 3)])
def test_a_gamma_of_zero_is_a_constant(bias, level):
    norm = nn.BatchNorm(2, rngs=RNGS)
    norm.scale[...] = jnp.zeros(2)
    norm.bias[...] = jnp.full(2, bias, jnp.float32)
    node = folded(norm, nn.Fixed(2), 0.1, 100)
    x = np.arange(-100, 101)[:, None]
    np.testing.assert_array_equal(levels_of(node, x), np.full((201, 2), level))


def test_bisection_finds_the_least_integer():
    thresholds = find_thresholds(lambda x: 2 * (x >= 3) + (x >= 10), np.ones(1, int), 10, 4)
    assert thresholds.tolist() == [[3, 3, 10, 11]]
    falling = find_thresholds(lambda x: 1 * (x <= -4), -np.ones(1, int), 10, 1)
    assert falling.tolist() == [[4]]
