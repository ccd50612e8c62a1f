"""Networks as after training, one for every block, quantizer and stem, with their integer form; made once."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import layers
from qresnet_jax.config import default_config
from qresnet_jax.deploy.fold import fold
from qresnet_jax.resnet import create_model

NETWORKS = {
    "basic pact": ({"depth": 8, "in_channels": 3}, (8, 8)),
    "preact_basic lsq": ({"depth": 8, "act_bits": (1, 2, 3), "in_channels": 1}, (9, 7)),
    "bottleneck fixed": ({"depth": 11, "act_bits": (8, 7, 6), "weight_scale": "channel"}, (6, 7)),
    "preact_bottleneck sigmoid": ({"depth": 11, "act_bits": (4, 1, 5), "stream_fraction_bits": 12}, (7, 7)),
    "basic power_of_two": ({"depth": 8, "act_bits": (4, 3, 1), "stream_fraction_bits": 5}, (7, 6)),
    "preact_basic pact": ({"depth": 8, "act_bits": (2, 8, 2), "weight_scale": "channel"}, (6, 9)),
    "basic lsq imagenet": (
        {"depth": 18, "act_bits": (2, 1, 2, 3), "stem": "imagenet", "stem_weight_bits": 8},
        (33, 40),
    ),
}


def as_trained(model, seed=0):
    """Gives batch norms, clipping levels and classifier values as training might; gammas of both signs and 0."""
    rng = np.random.default_rng(seed)
    for _, part in nnx.iter_modules(model):
        if isinstance(part, layers.BatchNorm):
            size = part.mean.shape
            part.mean[...] = jnp.float32(rng.normal(0, 0.3, size))
            part.var[...] = jnp.float32(rng.uniform(0.2, 2, size))
            gamma = rng.normal(0.5, 1, size)
            gamma[:: len(gamma) // 2] = 0
            part.scale[...] = jnp.float32(gamma)
            part.bias[...] = jnp.float32(rng.normal(0.3, 0.5, size))
        if isinstance(part, layers.PACT | layers.LSQ | layers.PowerOfTwo):
            part.alpha[...] = jnp.float32(rng.uniform(0.3, 1.3) * 2**part.bits)
        if isinstance(part, layers.Classifier):
            part.bias[...] = jnp.float32(rng.normal(0, 0.3, part.bias.shape))
    return model


def build(activation="pact", block="basic", seed=0, **changes):
    config = default_config().model
    config.num_classes = 5
    with config.ignore_type():  # None and tuples of another length
        config.update({"depth": 8, "activation": activation, "block": block, **changes})
    return as_trained(create_model(config, rngs=nnx.Rngs(seed)), seed)


def pixels(n, shape, seed=0):
    """uint8 images, the two extremes among them."""
    images = np.random.default_rng(seed).integers(0, 256, (n, *shape)).astype(np.uint8)
    images[0], images[-1, ::2] = 255, 0
    return images


@functools.cache
def _trained(name):
    changes, size = NETWORKS[name]
    block, activation = name.split()[:2]
    model = build(activation, block, seed=len(name), **changes)
    mean = [127.5, 10, 200.5][: model.stem.in_features]
    return model, fold(model, mean=mean, class_names="abcde", image_shape=size)


@pytest.fixture(params=NETWORKS)
def trained(request):
    """`(model, network)`, of each of the networks."""
    return _trained(request.param)


@pytest.fixture
def trained_named():
    """`trained_named("basic pact")`: `(model, network)`."""
    return _trained


@pytest.fixture
def build_model():
    """`build_model(activation, block, seed, **changes of config.model)`: as after training."""
    return build


@pytest.fixture
def make_images():
    """`make_images(n, (height, width, channels), seed)`, uint8."""
    return pixels
