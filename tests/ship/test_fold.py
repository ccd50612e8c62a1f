import hashlib
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qresnet_jax.ship
from qresnet_jax import nn
from qresnet_jax.config import default_config
from qresnet_jax.errors import ExportError, UserError
from qresnet_jax.models.architecture import has_integer_form
from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.fold import fold, why_float
from qresnet_jax.ship.jax.stablehlo import simulation
from qresnet_jax.ship.packed.file import packed_bytes

RNGS = nnx.Rngs(0)


def blocks_of(model):
    return [(f"stages.{i}.{j}", b) for i, stage in enumerate(model.stages) for j, b in enumerate(stage)]


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
    model = build_model()
    model.train()
    before = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    fold(model)
    assert isinstance(model.stem.kernel[...], jax.Array)
    assert not model.stages[0][0].norms[0].use_running_average
    after = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    np.testing.assert_array_equal(before["stem"]["kernel"], after["stem"]["kernel"])


def test_integers_and_simulation_agree(trained, make_images):
    """The simulation rounds in float32, and the multipliers onto the stream in full: single values move by a unit."""
    model, network = trained
    images = make_images(64, (network.height, network.width, network.channels))
    integers = reference.logits(network, images) * network.logit_scale
    simulated = np.asarray(jax.jit(simulation(model, network.mean))(images))
    assert len(np.unique(integers.argmax(-1))) > 1
    assert np.mean(integers.argmax(-1) == simulated.argmax(-1)) >= 0.95
    assert np.abs(integers - simulated).mean() < 0.02 * np.abs(simulated).max()


def test_each_layer_moves_single_values_by_a_unit_of_the_stream(trained, make_images):
    """Each simulated layer reads what the layer before it gives in the integer network."""
    model, network = trained
    images = make_images(16, (network.height, network.width, network.channels))
    values = reference.node_values(network, images)
    position = {node.name: i for i, node in enumerate(network.nodes)}
    model = nnx.view(model, use_running_average=True)
    stream = values[position["stem"]]
    for name, block in blocks_of(model):
        unit = 2.0**-network.fraction_bits
        given = nn.Stream(jnp.float32(stream * unit), network.fraction_bits)
        simulated = np.asarray(nnx.jit(lambda block, x: block(x))(block, given))
        stream = values[position[name]]
        units = np.abs(stream - simulated / unit)
        # A level at an edge of float32 moves what it is summed into by more.
        assert np.mean(units > 1) < 1e-3, name
        assert np.mean(units > 0) < 0.2, name


def test_the_same_parameters_fold_to_the_same_bytes_on_every_platform(build_model):
    """They are multiples of 1/1024, since random floats of NumPy's are not the same everywhere to the last bit."""
    model, rng = build_model("pact", "preact_basic", act_bits=(2, 4)), np.random.default_rng(0)
    for path, variable in nnx.to_flat_state(nnx.state(model)):
        low, high = (100, 3000) if path[-1] in ("var", "alpha") else (-1000, 1000)
        variable[...] = jnp.float32(rng.integers(low, high, variable.shape) / 1024)
    network = fold(model, mean=[127.5, 0, 255], class_names="abcde", image_shape=(8, 8))
    digest = hashlib.sha256(packed_bytes(network)).hexdigest()
    assert digest == "bc40c14b3b4190c3cfdf9c4de5d1aaf80a490ef7b7c0e04c0b90f291a53a23eb"


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
    model = build_model(
        "power_of_two", act_bits=(1, 4), widths=(6, 128)
    )  # 9 * 128 inputs, levels up to 16384
    with pytest.raises(
        ExportError, match="stages.1.0.convs.1 has sums of up to 18,874,368, .* config.model.act_bits"
    ):
        fold(model)
    with pytest.raises(ExportError, match="stem has sums of up to 56,388,150, .*stem_weight_bits"):
        fold(build_model(stem_weight_bits=13))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"mean": 127.3}, "mean=.*must be multiples of 1/2"),
        ({"mean": 256.0}, "means must be 0 to 255"),
        ({"class_names": ["a"]}, "1 class names for 5 classes"),
        ({"image_shape": (0, 8)}, "height=0 must be an integer from 1 to 65535"),
        ({"image_shape": (8.0, 8)}, "height=8.0 must be an integer from 1 to 65535"),
        ({"image_shape": (8, 8, 3)}, "must be .height, width., without the channels"),
        ({"class_names": range(5)}, "the class names must be strings"),
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
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "[]"


def test_packed_files_are_read_without_jax():
    code = "import qresnet_jax.ship.packed.file, sys; print('jax' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300
    )
    assert done.stdout.strip() == "False"


def test_a_dead_network_folds(build_model):
    model = build_model()
    for block in model.stages[0]:
        block.convs[0].kernel[...] = jnp.zeros_like(block.convs[0].kernel[...])
    network = fold(model)
    assert reference.logits(network, np.zeros((1, 6, 6, 3), np.uint8)).shape == (1, 5)


def test_what_is_no_network_is_refused():
    conv = nn.BinaryConv(3, 2, (3, 3), rngs=nnx.Rngs(0))
    with pytest.raises(ExportError, match="no first layer for pixels"):
        fold(conv)
    with pytest.raises(TypeError, match="got function"):
        fold(lambda x: x)
