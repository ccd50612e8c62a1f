"""ResNets with 1-bit weights and low-bit feature maps, for CIFAR-sized and ImageNet-sized images.

    images -> stem -> blocks on the residual stream -> mean pool -> classifier -> logits

Each block quantizes its own copy of the stream. The stream itself is never rounded to the activation bits.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import jax
from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax import nn
from qresnet_jax.models.architecture import (
    EXPANSION,
    block_kind,
    blocks_per_stage,
    stage_widths,
)
from qresnet_jax.models.precision import Precision, precision_of
from qresnet_jax.nn.convolutions import RESULT
from qresnet_jax.ops.batch_norm import STATISTICS

if TYPE_CHECKING:
    from ml_collections import ConfigDict

Stream = nn.Stream | jax.Array  # an array in a float network


class Block(nnx.Module):
    """A residual block: `x -> [act -> conv -> BN -> ReLU] ... -> act -> conv -> BN -> + shortcut -> ReLU`.

    The identity shortcut adds the unquantized x. A projection reads the same quantized x as the first
    convolution.

    Args:
      in_features: number of channels of the stream before the block.
      shapes: `(out_features, kernel_size, strides)` of each convolution: two 3x3 for a basic block; 1x1, 3x3
        and 1x1 for a bottleneck.
      bits: bits of the activations, 32 for float.
      precision: the settings that the layers of the network share.
      rngs: source of the `params` keys.

    See He et al. 2016a.
    """

    preact = False

    def __init__(
        self,
        in_features: int,
        shapes: Iterable[tuple[int, int, int]],
        bits: int,
        precision: Precision,
        *,
        rngs: nnx.Rngs,
    ) -> None:
        self.fraction_bits = precision.fraction_bits
        self.acts: nnx.List[nn.Quantizer | nn.FloatActivation] = nnx.List()
        self.convs: nnx.List[nn.BinaryConv | nn.FloatConv] = nnx.List()
        self.norms: nnx.List[nn.BatchNorm] = nnx.List()
        features, total_strides = in_features, 1
        for out_features, kernel_size, strides in shapes:
            self.acts.append(precision.act(bits))
            self.convs.append(precision.conv(features, out_features, kernel_size, strides, rngs))
            self.norms.append(precision.norm(features if self.preact else out_features, rngs))
            features, total_strides = out_features, total_strides * strides
        has_projection = total_strides != 1 or features != in_features
        self.project = (
            precision.conv(in_features, features, 1, total_strides, rngs) if has_projection else None
        )
        self.project_norm = precision.norm(features, rngs) if has_projection and not self.preact else None

    def __call__(self, stream: Stream) -> Stream:
        """Maps the stream, `[N, H, W, in]`, to `[N, H', W', out]`."""
        first = y = self.acts[0](stream)
        for conv, norm, act in zip(self.convs[:-1], self.norms[:-1], self.acts[1:], strict=True):
            y = act(nn.relu(norm(conv(y))))
        y = nn.to_stream(self.norms[-1](self.convs[-1](y)), self.fraction_bits)
        return nn.relu(y + self.shortcut(stream, first))

    def shortcut(self, stream: Stream, first: nn.Levels) -> Stream:
        """Returns what is added to the last convolution's result: the stream itself, or the projection of `first`."""
        if self.project is None:
            return stream
        y = self.project(first)
        return nn.to_stream(y if self.project_norm is None else self.project_norm(y), self.fraction_bits)


class PreactBlock(Block):
    """A residual block in the pre-activation form: `x -> [BN -> ReLU -> act -> conv] ... -> + shortcut`.

    See He et al. 2016b.
    """

    preact = True

    def __call__(self, stream: Stream) -> Stream:
        first = y = self.acts[0](nn.relu(self.norms[0](stream)))
        for conv, norm, act in zip(self.convs[:-1], self.norms[1:], self.acts[1:], strict=True):
            y = act(nn.relu(norm(conv(y))))
        return nn.to_stream(self.convs[-1](y), self.fraction_bits) + self.shortcut(stream, first)


class BirealBlock(Block):
    """Two convolutions with a shortcut around each: `x -> act -> conv -> BN -> + shortcut`, twice (Liu et al. 2018, Bi-Real Net).

    There is no ReLU, as the quantizers have one. A projection stands beside the first convolution.
    """

    def __call__(self, stream: Stream) -> Stream:
        """Maps the stream, `[N, H, W, in]`, to `[N, H', W', out]`."""
        for conv, norm, act in zip(self.convs, self.norms, self.acts, strict=True):
            levels = act(stream)
            y = nn.to_stream(norm(conv(levels)), self.fraction_bits)
            stream = y + (self.shortcut(stream, levels) if conv is self.convs[0] else stream)
        return stream


class ResNet(nnx.Module):
    """A ResNet that classifies images; `create_model` builds one."""

    def __init__(self, config: "ConfigDict", precision: Precision, *, rngs: nnx.Rngs) -> None:
        kind, preact = block_kind(config.block)
        block = {"bireal": BirealBlock}.get(config.block, PreactBlock if preact else Block)
        self.fraction_bits = precision.fraction_bits
        self.remat = "none"  # training sets it to config.remat
        self.imagenet_stem = config.stem == "imagenet"
        widths = stage_widths(config.width, config.stem)
        size, strides = (7, 2) if self.imagenet_stem else (3, 1)
        self.stem = precision.stem(config.in_channels, widths[0], size, strides, rngs)
        # The first block of a pre-activation CIFAR network starts with BN and ReLU; all other networks have them here.
        self.stem_norm = None if preact and not self.imagenet_stem else precision.norm(widths[0], rngs)

        self.stages: nnx.List[nnx.List[Block]] = nnx.List()
        features = widths[0]
        counts = blocks_per_stage(config.depth, config.block, config.stem)
        for i, (width, count, bits) in enumerate(zip(widths, counts, config.act_bits, strict=True)):
            stage: nnx.List[Block] = nnx.List()
            for j in range(count):
                strides = 2 if i > 0 and j == 0 else 1
                if kind == "basic":
                    shapes = [(width, 3, strides), (width, 3, 1)]
                else:
                    shapes = [(width, 1, 1), (width, 3, strides), (width * EXPANSION[kind], 1, 1)]
                stage.append(block(features, shapes, bits, precision, rngs=rngs))
                features = width * EXPANSION[kind]
            self.stages.append(stage)
        self.final_norm = precision.norm(features, rngs) if preact else None
        self.classifier = precision.classifier(features, config.num_classes, rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Computes the logits of normalised images.

        Args:
          images: float `[N, H, W, C]`, as `qresnet_jax.pixels.normalize` returns them.

        Returns:
          The logits, float32 `[N, classes]`.

        Raises:
          ValueError: if `images` has another rank or number of channels.
        """
        if images.ndim != 4 or images.shape[-1] != self.stem.in_features:
            raise ValueError(f"images must be [N, H, W, {self.stem.in_features}], got shape {images.shape}")
        with jax.named_scope("stem"):  # a profile shows the scopes
            y = self.stem(images)
            stream = nn.to_stream(y if self.stem_norm is None else self.stem_norm(y), self.fraction_bits)
            if self.stem_norm is not None:
                stream = nn.relu(stream)
            if self.imagenet_stem:
                stream = nn.max_pool(stream, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))
        for i, stage in enumerate(self.stages):
            for j, block in enumerate(stage):
                with jax.named_scope(f"stages.{i}.{j}"):
                    stream = apply_block(block, stream, self.remat)
        with jax.named_scope("classifier"):
            if self.final_norm is not None:
                stream = nn.relu(nn.to_stream(self.final_norm(stream), self.fraction_bits))
            return self.classifier(nn.global_mean(stream))


def apply_block(block: Block, stream: Stream, remat: str) -> Stream:
    """Returns `block(stream)`, and says what of it is kept for the gradient.

    Args:
      block: a residual block.
      stream: its input.
      remat: "none" keeps all that the gradient needs; "convolutions" keeps the results of convolutions, and computes
        what is between them again; "block" keeps only `stream`, and computes the whole block again. Batch statistics
        are always kept: they are small, and devices need not exchange them again.
    """
    if remat == "none":
        return block(stream)
    kept = (RESULT, STATISTICS) if remat == "convolutions" else (STATISTICS,)
    policy = jax.checkpoint_policies.save_only_these_names(*kept)
    # nnx.remat hands on the running statistics of the forward pass; what is computed again changes nothing.
    return nnx.remat(lambda block, stream: block(stream), policy=policy)(block, stream)


def create_model(config: "ConfigDict", *, rngs: nnx.Rngs, dtype: DTypeLike = "float32") -> ResNet:
    """Builds the network that `config.model` describes.

    Args:
      config: the `model` part of a config, see `qresnet_jax.config.default_config`.
      rngs: source of the `params` keys.
      dtype: dtype of activations and convolutions, "float32" or "bfloat16". Parameters and statistics are
        float32.

    Returns:
      A module that maps normalised images, float `[N, H, W, C]`, to logits, float32 `[N, classes]`.

    Raises:
      ValueError: if a depth, name or number of bits is not possible (the message names the field), or if
        `config` is the whole config instead of its `model` part.
    """
    if hasattr(config, "model"):
        raise ValueError(
            "create_model takes the model part of a config, got the whole config: call create_model(config.model, ...)"
        )
    return ResNet(config, precision_of(config, dtype), rngs=rngs)
