"""The small VGG for CIFAR of Zhang et al. 2018 (LQ-Nets, section 5.1): six 3x3 convolutions, and one dense layer.

images -> 128 -> 128, pool -> 256 -> 256, pool -> 512 -> 512, pool -> classifier -> logits
"""

from typing import TYPE_CHECKING

import jax
from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax import nn
from qresnet_jax.models.architecture import VGG_STRIDE, vgg_widths
from qresnet_jax.models.precision import precision_of

if TYPE_CHECKING:
    from ml_collections import ConfigDict


class VggSmall(nnx.Module):
    """A VGG that classifies images.

    Args:
      config: the `model` part of a config; `width` is a factor on the channels in 1/8, so that 8 gives the published network.
      dtype: dtype of float layers and of the operands of products, "float32" or "bfloat16".
      rngs: source of the `params` keys.
    """

    def __init__(self, config: "ConfigDict", *, dtype: DTypeLike = "float32", rngs: nnx.Rngs) -> None:
        precision = precision_of(config, dtype)
        widths = vgg_widths(config.width)
        self.stem = precision.stem(config.in_channels, widths[0], 3, 1, rngs)
        self.norms = nnx.List([precision.norm(widths[0], rngs)])
        self.acts: nnx.List[nn.Quantizer | nn.FloatActivation] = nnx.List()
        self.convs: nnx.List[nn.BinaryConv | nn.FloatConv] = nnx.List()
        features = widths[0]
        for i, (width, bits) in enumerate(zip(widths, config.act_bits, strict=True)):
            for _ in range(1 if i == 0 else 2):  # the first stage begins with the stem
                self.acts.append(precision.act(bits))
                self.convs.append(precision.conv(features, width, 3, 1, rngs))
                self.norms.append(precision.norm(width, rngs))
                features = width
        self.acts.append(precision.act(config.act_bits[-1]))
        height, width = config.image_size
        self.classifier = precision.classifier(
            features * (height // VGG_STRIDE) * (width // VGG_STRIDE), config.num_classes, rngs
        )

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, float32 `[N, classes]`, of normalised images, float `[N, H, W, C]`."""
        x = self.acts[0](nn.relu(self.norms[0](self.stem(images))))
        for i, (conv, norm, act) in enumerate(zip(self.convs, self.norms[1:], self.acts[1:], strict=True)):
            x = act(nn.relu(norm(conv(x))))
            if i % 2 == 0:  # behind the second convolution of each stage
                x = nn.max_pool(x, 2)
        return self.classifier(nn.flatten(x))
