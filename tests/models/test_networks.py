"""Our networks besides the ResNet: shapes, sizes, float twins, and that they ship."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.config import default_config
from qresnet_jax.errors import ExportError
from qresnet_jax.models.architecture import NAMES
from qresnet_jax.models.networks import create_model
from qresnet_jax.pixels import normalize
from qresnet_jax.ship import reference
from qresnet_jax.ship.fold import fold
from qresnet_jax.train.float_epochs import float_model
from tests.ship.conftest import as_trained, pixels

OTHERS = ("vgg_small", "mlp", "mobilenet", "bireal")


def config_of(name, **changes):
    config = default_config().model
    config.update({"in_channels": 2, "num_classes": 5, "image_size": (8, 16), **changes})
    config.name, config.depth = (name, 8) if name in NAMES else ("resnet", 8)
    if name not in NAMES:
        config.block = name
    return config


def sizes(model):
    return sum(x.size for x in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize("name", OTHERS)
def test_the_integers_are_what_the_network_computes(name):
    model = as_trained(create_model(config_of(name), rngs=nnx.Rngs(0)))
    model.eval()
    images = pixels(64, (8, 16, 2))
    want = np.asarray(model(normalize(jnp.asarray(images), jnp.float32([127.5, 100]))))
    integers = fold(model, mean=[127.5, 100], image_shape=(8, 16))
    got = reference.logits(integers, images) * integers.logit_scale
    assert len(np.unique(got, axis=0)) > 10
    assert np.mean(got.argmax(-1) == want.argmax(-1)) > 0.9
    assert np.abs(got - want).mean() < 0.02 * np.abs(want).max()


@pytest.mark.parametrize("name", OTHERS)
def test_a_float_twin_has_the_same_parameters_but_clipping_levels_and_no_integer_form(name):
    config = config_of(name)
    model, twin = (create_model(c, rngs=nnx.Rngs(0)) for c in (config, float_model(config)))
    levels = sizes(model) - sizes(twin)
    acts = [m for _, m in nnx.iter_modules(model) if isinstance(m, nn.PACT)]
    assert levels == len(acts) > 0
    assert not [m for _, m in nnx.iter_modules(twin) if isinstance(m, nn.BinaryConv)]
    assert twin(jnp.ones((2, 8, 16, 2))).shape == (2, 5)
    with pytest.raises(ExportError, match="float"):
        fold(twin, image_shape=(8, 16))


@pytest.mark.parametrize("name", [*OTHERS, "basic", "bottleneck", "preact_basic", "preact_bottleneck"])
def test_a_float_twin_has_a_relu_wherever_its_network_has_a_quantizer(name, monkeypatch):
    """Or it would be linear there."""
    config = config_of(name)
    if "bottleneck" in name:
        config.depth = 11
    twin = create_model(float_model(config), rngs=nnx.Rngs(0))
    seen, computed = [], nn.FloatActivation.__call__

    def call(act, x):
        seen.append(jnp.min(computed(act, x)))
        return computed(act, x)

    monkeypatch.setattr(nn.FloatActivation, "__call__", call)
    twin(jnp.float32(np.random.default_rng(0).normal(size=(4, 8, 16, 2))))
    assert len(seen) > 1 and min(seen) == max(seen) == 0


def test_the_vgg_has_the_published_channels():
    config = config_of("vgg_small", width=8, in_channels=3, num_classes=10, image_size=(32, 32))
    model = nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(0)))
    shapes = [
        model.stem.kernel.shape,
        *(conv.kernel.shape for conv in model.convs),
        model.classifier.kernel.shape,
    ]
    assert shapes == [
        (3, 3, 3, 128),
        (3, 3, 128, 128),
        (3, 3, 128, 256),
        (3, 3, 256, 256),
        (3, 3, 256, 512),
        (3, 3, 512, 512),
        (8192, 10),
    ]


def test_a_perceptron_has_as_many_hidden_layers_as_act_bits():
    config = config_of("mlp", in_channels=1, image_size=(28, 28), num_classes=10)
    for bits in ((2, 2), (2, 4, 8)):
        config.act_bits = bits
        model = create_model(config, rngs=nnx.Rngs(0))
        assert model.stem.kernel.shape == (1, 1, 784, 256) and model.classifier.kernel.shape == (256, 10)
        assert [act.bits for act in model.acts] == list(bits) and len(model.layers) == len(bits) - 1


def test_a_mobilenet_is_depthwise_and_has_shortcuts_where_shapes_allow():
    model = create_model(config_of("mobilenet"), rngs=nnx.Rngs(0))
    assert [(b.depthwise.kernel.shape[2], b.depthwise.strides[0], b.has_shortcut) for b in model.blocks] == [
        (1, 1, True),
        (1, 1, True),
        (1, 2, False),
        (1, 1, True),
        (1, 2, False),
        (1, 1, True),
    ]


def test_a_bireal_block_has_a_shortcut_around_each_convolution():
    model = create_model(config_of("bireal"), rngs=nnx.Rngs(0))
    block = model.stages[0][0]
    for norm in block.norms:
        norm.scale[...] = jnp.zeros(16)
        norm.bias[...] = jnp.zeros(16)
    x = nn.to_stream(jnp.float32(np.random.default_rng(0).normal(size=(1, 4, 4, 16))))
    np.testing.assert_array_equal(block(x).value, x.value)
