"""Networks as after training, one for every block, quantizer and stem, with their integer form; made once."""

import functools
import unittest.mock

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.config import default_config
from qresnet_jax.models import resnet
from qresnet_jax.ship import reference
from qresnet_jax.ship.fold import fold
from qresnet_jax.ship.packed.file import save_packed

CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# Two stages of one block each compile quickly; their widths are no multiples of 8.
NETWORKS = {
    "basic pact": ({"in_channels": 3}, (8, 8)),
    "preact_basic lsq": ({"act_bits": (1, 3), "in_channels": 1}, (9, 7)),
    "bottleneck fixed": ({"act_bits": (8, 6), "weight_scale": "channel"}, (6, 7)),
    "preact_bottleneck sigmoid": ({"act_bits": (4, 5), "stream_fraction_bits": 12}, (7, 7)),
    "basic power_of_two": ({"act_bits": (4, 3), "stream_fraction_bits": 5}, (7, 6)),
    "preact_basic pact": ({"act_bits": (2, 7), "weight_scale": "channel"}, (6, 9)),
    "basic lsq imagenet": ({"stem": "imagenet", "stem_weight_bits": 8}, (33, 40)),
}


def as_trained(model, seed=0):
    """Gives batch norms, clipping levels and classifier values as training might; gammas of both signs and 0."""
    rng = np.random.default_rng(seed)
    for _, part in nnx.iter_modules(model):
        if isinstance(part, nn.BatchNorm):
            size = part.mean.shape
            part.mean[...] = jnp.float32(rng.normal(0, 0.3, size))
            part.var[...] = jnp.float32(rng.uniform(0.2, 2, size))
            gamma = rng.normal(0.5, 1, size)
            gamma[:: len(gamma) // 2 or 2] = 0
            part.scale[...] = jnp.float32(gamma)
            part.bias[...] = jnp.float32(rng.normal(0.3, 0.5, size))
        if isinstance(part, nn.PACT | nn.LSQ | nn.PowerOfTwo):
            part.alpha[...] = jnp.float32(rng.uniform(0.3, 1.3) * 2**part.bits)
        if isinstance(part, nn.Classifier):
            part.bias[...] = jnp.float32(rng.normal(0, 0.3, part.bias.shape))
    return model


def build(activation="pact", block="basic", seed=0, widths=(6, 11), **changes):
    config = default_config().model
    config.num_classes = 5
    with config.ignore_type():  # None and tuples of another length
        config.update({"activation": activation, "block": block, "act_bits": (2,) * len(widths), **changes})
    sizes = {"blocks_per_stage": lambda *_: (1,) * len(widths), "stage_widths": lambda *_: widths}
    with unittest.mock.patch.multiple(resnet, **sizes):
        model = resnet.create_model(config, rngs=nnx.Rngs(seed))
    return as_trained(model, seed)


def pixels(n, shape, seed=0):
    """uint8 images of all brightnesses and contrasts; all black and all white are among them."""
    rng = np.random.default_rng(seed)
    brightness = rng.uniform(-50, 300, (n, 1, 1, shape[-1]))
    noise = rng.normal(0, 1, (n, *shape)) * rng.uniform(0, 150, (n, 1, 1, 1))
    images = np.clip(brightness + noise, 0, 255).astype(np.uint8)
    images[0], images[-1] = 255, 0
    return images


def folded(model, shape, mean, names):
    """The integer form, after the classifier is set to prefer no class, as training does."""
    mean = mean[: shape[-1]]
    network = fold(model, mean=mean, class_names=names, image_shape=shape[:2])
    *_, pooled, last = range(len(network.nodes))
    values = reference.node_values(network, pixels(64, shape), [pooled, last])
    features, logits = values[pooled].mean((0, 1, 2)), values[last].mean(0)
    correction = np.outer(features, logits) / (features @ features)  # of integer features and logits
    correction *= network.logit_scale * 2.0**network.fraction_bits
    model.classifier.kernel[...] -= jnp.float32(correction)
    return fold(model, mean=mean, class_names=names, image_shape=shape[:2])


@functools.cache
def _trained(name):
    if name == "resnet20":
        model = as_trained(resnet.create_model(default_config().model, rngs=nnx.Rngs(20)))
        return model, folded(model, (32, 32, 3), [125.5, 123, 114], CIFAR_NAMES)
    changes, size = NETWORKS[name]
    block, activation = name.split()[:2]
    model = build(activation, block, seed=len(name), **changes)
    return model, folded(model, (*size, model.stem.in_features), [127.5, 10, 200.5], "abcde")


QUICK = ("basic pact", "preact_bottleneck sigmoid", "basic power_of_two", "basic lsq imagenet")


@pytest.fixture(
    params=[
        name if name in QUICK else pytest.param(name, marks=pytest.mark.slow)
        for name in (*NETWORKS, "resnet20")
    ]
)
def trained(request):
    """`(model, network)`, of each of `NETWORKS` and of the default one."""
    return _trained(request.param)


@pytest.fixture
def trained_named():
    """`trained_named("basic pact")`: `(model, network)`."""
    return _trained


@pytest.fixture
def network():
    """Of "basic pact"."""
    return _trained("basic pact")[1]


@pytest.fixture
def path(network, tmp_path):
    """Of its packed file."""
    save_packed(network, tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


@pytest.fixture
def build_model():
    """`build_model(activation, block, seed, **changes of config.model)`: as after training."""
    return build


@pytest.fixture
def make_images():
    """`make_images(n, (height, width, channels), seed)`, uint8."""
    return pixels
