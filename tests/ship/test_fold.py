import pathlib
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import qresnet_jax.ship
from qresnet_jax import nn
from qresnet_jax.config import default_config
from qresnet_jax.errors import ExportError, UserError
from qresnet_jax.models.architecture import has_integer_form
from qresnet_jax.quantize import registry
from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.fold import find_thresholds, fold, fold_quantizer, why_float

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
    node = fold_quantizer(norm, act, factor, bound)
    assert np.all(np.diff(node.thresholds) >= 0)
    assert np.all(np.abs(node.thresholds) <= bound + 1)
    assert_same_staircase(node, norm, act, factor, bound)


def test_ties_round_to_even_as_in_training():
    act = nn.Fixed(2)
    node = fold_quantizer(None, act, 2.0**-8, 2**15)
    assert node.thresholds.tolist() == [[129, 384, 641]]  # 0.5 -> 0, 1.5 -> 2, 2.5 -> 2
    x = np.arange(-1000, 1000)
    np.testing.assert_array_equal(levels_of(node, x), act(jnp.float32(x * 2.0**-8)))


def test_power_of_two_ties_go_down_as_in_training():
    act = nn.PowerOfTwo(2)
    act.alpha[...] = jnp.float32(4)
    node = fold_quantizer(None, act, 0.25, 40)
    assert node.levels.tolist() == [0, 1, 2, 4]
    assert node.thresholds.tolist() == [[3, 7, 13]]  # 0.5, 1.5 and 3 stay below
    x = np.arange(-40, 41)
    np.testing.assert_array_equal(levels_of(node, x) * act.step, act(jnp.float32(x * 0.25)))


@pytest.mark.parametrize("bias, level", [(-1.0, 0), (1.2, 1), (9.0, 3)])
def test_a_gamma_of_zero_is_a_constant(bias, level):
    norm = nn.BatchNorm(2, rngs=RNGS)
    norm.scale[...] = jnp.zeros(2)
    norm.bias[...] = jnp.full(2, bias, jnp.float32)
    node = fold_quantizer(norm, nn.Fixed(2), 0.1, 100)
    x = np.arange(-100, 101)[:, None]
    np.testing.assert_array_equal(levels_of(node, x), np.full((201, 2), level))


def test_bisection_finds_the_least_integer():
    thresholds = find_thresholds(lambda x: 2 * (x >= 3) + (x >= 10), np.ones(1, int), 10, 4)
    assert thresholds.tolist() == [[3, 3, 10, 11]]
    falling = find_thresholds(lambda x: 1 * (x <= -4), -np.ones(1, int), 10, 1)
    assert falling.tolist() == [[4]]


def test_signs_are_those_of_the_kernels_and_zero_is_plus_one(build_model):
    model = build_model(seed=3)
    conv = model.stages[1][0].project
    conv.kernel[...] = conv.kernel[...].at[0, 0, 0, :2].set(jnp.array([0.0, -0.0]))
    network = fold(model)
    convs = {node.name: node for node in network.nodes if isinstance(node, nodes.BinaryConvNode)}
    assert len(convs) == 5
    for name, node in convs.items():
        _, i, j, *path = name.split(".")
        block = model.stages[int(i)][int(j)]
        module = block.project if path == ["project"] else block.convs[int(path[1])]
        np.testing.assert_array_equal(node.signs, np.where(module.kernel[...] >= 0, 1, -1))
    assert convs["stages.1.0.project"].signs[0, 0, 0, :2].tolist() == [1, 1]


def test_folding_leaves_the_model_as_it_is(build_model):
    model = build_model(stream_fraction_bits=None)
    model.train()
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    with pytest.warns(UserWarning, match="trained on a float stream.*model.stream_fraction_bits=8"):
        network = fold(model)
    assert network.fraction_bits == 8
    assert (model.fraction_bits, model.stem.weight_bits, model.classifier.fraction_bits) == (None, None, None)
    assert not model.stages[0][0].norms[0].use_running_average
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    np.testing.assert_array_equal(before["stem"]["kernel"], after["stem"]["kernel"])


def test_what_training_knew_is_kept(trained_named):
    _, network = trained_named("basic pact")
    assert network.class_names == ("a", "b", "c", "d", "e")
    assert (network.height, network.width, network.channels, network.classes) == (8, 8, 3, 5)
    assert network.mean.tolist() == [127.5, 10.0, 200.5]
    assert [node.name for node in network.nodes if node.name][:4] == [
        "stem",
        "stages.0.0.convs.0",
        "stages.0.0.convs.1",
        "stages.0.0",
    ]


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weight_bits": 32, "activation": "none"}, "float weights.*config.model.weight_bits=1"),
        ({"activation": "none"}, "stages.0.0 has float activations.*config.model.activation"),
        ({"act_bits": (2, 32)}, "stages.1.0 has float activations.*config.model.act_bits"),
    ],
)
def test_float_networks_are_refused(build_model, changes, message):
    with pytest.raises(ExportError, match=message) as error:
        fold(build_model(**changes))
    assert isinstance(error.value, UserError)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"weight_bits": 32},
        {"activation": "none"},
        {"act_bits": (2, 2, 32)},
        {"stream_fraction_bits": None},
    ],
)
def test_a_config_says_as_much_as_its_network(make_model, changes):
    config = default_config().model
    config.update(changes)
    assert has_integer_form(config) == (why_float(make_model(depth=8, **changes)) is None)


def test_networks_that_diverged_are_refused(build_model):
    model = build_model()
    norm = model.stages[1][0].norms[1]
    norm.var[...] = norm.var[...].at[3].set(jnp.nan)
    with pytest.raises(ExportError, match="stages.*1.*norms.*var.*is not finite"):
        fold(model)


def test_sums_beyond_2_to_the_24_are_refused(build_model):
    model = build_model("power_of_two", act_bits=(1, 4))
    model.stages[1][0].convs[1] = nn.BinaryConv(128, 1, 3, rngs=RNGS)  # 9 * 128 inputs, levels up to 16384
    with pytest.raises(
        ExportError, match="stages.1.0 has sums of up to 18,874,368, .* config.model.act_bits"
    ):
        fold(model)
    with pytest.raises(ExportError, match="stem has sums of up to 56,388,150, .*stem_weight_bits"):
        fold(build_model(stem_weight_bits=13))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mean": 127.3}, "mean=.*must be half-integers"),
        ({"mean": 256.0}, "means must be 0 to 255"),
        ({"class_names": ["a"]}, "1 class names for 5 classes"),
        ({"image_shape": (0, 8)}, "height=0, width=8 must be 1 to 65535"),
    ],
)
def test_impossible_descriptions_are_refused(build_model, changes, message):
    with pytest.raises((ValueError, ExportError), match=message):
        fold(build_model(), **changes)


def test_ship_never_imports_train():
    directory = pathlib.Path(qresnet_jax.ship.__file__).parent
    modules = [path.stem for path in directory.glob("*.py") if path.stem != "__init__"]
    assert "fold" in modules
    code = "; ".join(f"import qresnet_jax.ship.{m}" for m in modules)
    code += "; import sys; print([m for m in sys.modules if m.startswith('qresnet_jax.train')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_packed_files_are_read_without_jax():
    code = "import qresnet_jax.ship.packed.file, sys; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_dead_network_folds(build_model):
    model = build_model()
    for block in model.stages[0]:
        block.convs[0].kernel[...] = jnp.zeros_like(block.convs[0].kernel[...])
    network = fold(model)
    assert reference.logits(network, np.zeros((1, 6, 6, 3), np.uint8)).shape == (1, 5)


def test_what_is_no_network_is_refused():
    conv = nn.BinaryConv(3, 2, (3, 3), rngs=nnx.Rngs(0))
    with pytest.raises(TypeError, match="fold takes a network of create_model, got BinaryConv"):
        fold(conv)
