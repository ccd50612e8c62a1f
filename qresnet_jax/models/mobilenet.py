"""A MobileNet for small images: depthwise separable convolutions (Howard et al. 2017, section 3.1).

images -> stem -> three stages of blocks [depthwise 3x3 -> 1x1] -> mean pool -> classifier -> logits
"""

from typing import TYPE_CHECKING

import jax
from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax import nn
from qresnet_jax.models.architecture import mobilenet_widths
from qresnet_jax.models.precision import Precision, precision_of

if TYPE_CHECKING:
    from ml_collections import ConfigDict

BLOCKS = 2  # of a stage


class Separable(nnx.Module):
    """A depthwise separable convolution: `act -> depthwise 3x3 -> BN -> ReLU -> act -> 1x1 -> BN`, and a shortcut if shapes allow.

    The shortcut is that of Sandler et al. 2018 (MobileNetV2): binary weights need it more than float weights do.

    Args:
      in_features, out_features: channels of the stream before and after the block.
      strides: of the depthwise convolution.
      bits: bits of the activations, 32 for float.
      precision: the settings that the layers of the network share.
      rngs: source of the `params` keys.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        strides: int,
        bits: int,
        precision: Precision,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.fraction_bits = precision.fraction_bits
        self.has_shortcut = strides == 1 and in_features == out_features
        self.acts = nnx.List([precision.act(bits) for _ in range(2)])
        self.depthwise = precision.conv(in_features, in_features, 3, strides, rngs, groups=in_features)
        self.pointwise = precision.conv(in_features, out_features, 1, 1, rngs)
        self.norms = nnx.List([precision.norm(in_features, rngs), precision.norm(out_features, rngs)])

    def __call__(self, stream: nn.Stream | jax.Array) -> nn.Stream | jax.Array:
        """Maps the stream, `[N, H, W, in]`, to `[N, H', W', out]`."""
        y = self.acts[1](nn.relu(self.norms[0](self.depthwise(self.acts[0](stream)))))
        y = nn.to_stream(self.norms[1](self.pointwise(y)), self.fraction_bits)
        return stream + y if self.has_shortcut else y


class MobileNet(nnx.Module):
    """A MobileNet that classifies images.

    Args:
      config: the `model` part of a config; `width` is a factor on the channels.
      dtype: dtype of float layers and of the operands of products, "float32" or "bfloat16".
      rngs: source of the `params` keys.
    """

    def __init__(self, config: "ConfigDict", *, dtype: DTypeLike = "float32", rngs: nnx.Rngs) -> None:
        precision = precision_of(config, dtype)
        self.fraction_bits = precision.fraction_bits
        widths = mobilenet_widths(config.width)
        self.stem = precision.stem(config.in_channels, widths[0], 3, 1, rngs)
        self.norm = precision.norm(widths[0], rngs)
        self.blocks: nnx.List[Separable] = nnx.List()
        features = widths[0]
        for i, (width, bits) in enumerate(zip(widths, config.act_bits, strict=True)):
            for j in range(BLOCKS):
                strides = 2 if i > 0 and j == 0 else 1
                self.blocks.append(Separable(features, width, strides, bits, precision, rngs=rngs))
                features = width
        self.classifier = precision.classifier(features, config.num_classes, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits, float32 `[N, classes]`, of normalised images, float `[N, H, W, C]`."""
        stream = nn.relu(nn.to_stream(self.norm(self.stem(images)), self.fraction_bits))
        for block in self.blocks:
            stream = block(stream)
        return self.classifier(nn.global_mean(nn.relu(stream)))
