"""A multilayer perceptron: all pixels at once, then hidden layers of n units each.

images -> n -> ... -> n -> classifier -> logits
"""

from typing import TYPE_CHECKING

import jax
from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax import nn
from qresnet_jax.models.architecture import MLP_UNITS
from qresnet_jax.models.precision import precision_of

if TYPE_CHECKING:
    from ml_collections import ConfigDict


class Mlp(nnx.Module):
    """A perceptron that classifies images; of 28x28 pixels with a width of 1 and two `act_bits`, 784-256-256-10.

    Args:
      config: the `model` part of a config; `width` is a factor on the 256 units of a hidden layer. There are as many hidden
        layers as `act_bits`.
      dtype: dtype of float layers and of the operands of products, "float32" or "bfloat16".
      rngs: source of the `params` keys.
    """

    def __init__(self, config: "ConfigDict", *, dtype: DTypeLike = "float32", rngs: nnx.Rngs) -> None:
        precision = precision_of(config, dtype)
        height, width = config.image_size
        units, bits = MLP_UNITS * config.width, config.act_bits
        self.stem = precision.stem_dense(height * width * config.in_channels, units, rngs)
        self.layers = nnx.List([precision.dense(units, units, rngs) for _ in bits[1:]])
        self.norms = nnx.List([precision.norm(units, rngs) for _ in bits])
        self.acts = nnx.List([precision.act(n) for n in bits])
        self.classifier = precision.classifier(units, config.num_classes, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, float32 `[N, classes]`, of normalised images, float `[N, H, W, C]`."""
        x = self.stem(nn.flatten(images))
        for layer, norm, act in zip([*self.layers, self.classifier], self.norms, self.acts, strict=True):
            x = layer(act(nn.relu(norm(x))))
        return x
