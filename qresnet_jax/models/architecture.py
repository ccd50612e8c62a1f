"""The rules for depths and widths of ResNets. It does not import JAX, so that a wrong config is refused at once."""

from typing import TYPE_CHECKING

from qresnet_jax import pixels
from qresnet_jax.quantize.exact import most_weight_bits

if TYPE_CHECKING:
    from ml_collections import ConfigDict

BLOCKS = ("basic", "bottleneck", "preact_basic", "preact_bottleneck", "bireal")
STEMS = ("cifar", "imagenet")
EXPANSION = {"basic": 1, "bottleneck": 4}

_IMAGENET_STAGES = {
    ("basic", 18): (2, 2, 2, 2),
    ("basic", 34): (3, 4, 6, 3),
    ("bottleneck", 50): (3, 4, 6, 3),
}


RESNET = "resnet"
OF_ONE_SIZE = ("vgg_small", "mlp")  # which need to know the size of their images
NAMES = (RESNET, *OF_ONE_SIZE, "mobilenet")


def own_parts(name: str) -> tuple[str, str] | None:
    """Splits the name of a user's own network, "FILE.py:FUNCTION" or "PACKAGE.MODULE:FUNCTION"; None for one of `NAMES`."""
    source, colon, function = name.rpartition(":")
    return (source, function) if colon else None


def block_kind(block: str) -> tuple[str, bool]:
    """Splits the name of a block into its kind, "basic" or "bottleneck", and whether it is the pre-activation form.

    Raises:
      ValueError: if there is no such block.
    """
    if block not in BLOCKS:
        raise ValueError(f"model.block must be one of {', '.join(BLOCKS)}, got {block!r}")
    if block == "bireal":  # the convolutions of a basic block
        return "basic", False
    return block.removeprefix("preact_"), block.startswith("preact_")


def blocks_per_stage(depth: int, block: str, stem: str) -> tuple[int, ...]:
    """Returns the number of blocks in each stage of a ResNet.

    With the CIFAR stem there are three stages, and the depth is `6n + 2` with basic blocks (He et al. 2016a,
    section 4.2) or `9n + 2` with bottlenecks (He et al. 2016b). With the ImageNet stem the depth is 18 or 34
    with basic blocks, or 50 with bottlenecks (He et al. 2016a, table 1).

    Args:
      depth: number of layers that have weights.
      block: one of `BLOCKS`.
      stem: one of `STEMS`.

    Raises:
      ValueError: if networks with this stem and block do not have this depth, or if there is no such block or
        stem.
    """
    kind, _ = block_kind(block)
    if stem == "imagenet":
        if (kind, depth) not in _IMAGENET_STAGES:
            allowed = ", ".join(f"{d} ({k})" for k, d in _IMAGENET_STAGES)
            raise ValueError(
                f"model.depth={depth} with {block} blocks and the imagenet stem: the depth must be one of {allowed}"
            )
        return _IMAGENET_STAGES[kind, depth]
    if stem != "cifar":
        raise ValueError(f"model.stem must be one of {', '.join(STEMS)}, got {stem!r}")
    per_block = 6 if kind == "basic" else 9
    n, remainder = divmod(depth - 2, per_block)
    if n < 1 or remainder:
        examples = "20, 32, 44, 56, 110, 1202" if kind == "basic" else "29, 56, 110, 164, 1001"
        raise ValueError(
            f"model.depth={depth} with {block} blocks: the depth must be {per_block}n+2 (n >= 1), for example "
            f"{examples}"
        )
    return (n, n, n)


def stage_widths(width: int, stem: str) -> tuple[int, ...]:
    """Returns the number of channels of each stage, before the expansion of bottlenecks.

    Args:
      width: what the standard widths are multiplied by.
      stem: one of `STEMS`.
    """
    return tuple(width * c for c in ((16, 32, 64) if stem == "cifar" else (64, 128, 256, 512)))


def number_of_act_bits(config: "ConfigDict") -> int | None:
    """Returns how many `act_bits` a network of `NAMES` has; None for a perceptron, which has as many layers as they are.

    Raises:
      ValueError: a ResNet cannot have its depth, block or stem.
    """
    if config.name == RESNET:
        return len(blocks_per_stage(config.depth, config.block, config.stem))
    return None if config.name == "mlp" else 3


def most_taps(config: "ConfigDict") -> int:
    """Returns how many products the longest sum between first layer and classifier has, in a network of `NAMES`."""
    match config.name:
        case "mlp":
            return MLP_UNITS * config.width
        case "vgg_small":
            return 9 * vgg_widths(config.width)[-1]
        case "mobilenet":
            return max(9, mobilenet_widths(config.width)[-1])
    return 9 * stage_widths(config.width, config.stem)[-1]


def largest_kernel(config: "ConfigDict") -> int:
    """Returns the weights of the largest kernel between first layer and classifier, in a network of `NAMES`."""
    taps = most_taps(config)
    return taps * (taps // 9 if config.name in (RESNET, "vgg_small") else taps)


MLP_UNITS = 256  # of a hidden layer with a width of 1


def vgg_widths(width: int) -> tuple[int, ...]:
    """Returns the channels of each stage of a `vgg_small`, whose width is in eighths of the published network's."""
    return tuple(width * c // 8 for c in (128, 256, 512))


VGG_STRIDE = 8  # of its three pools together


def mobilenet_widths(width: int) -> tuple[int, ...]:
    """Returns the channels of each stage of a `mobilenet`."""
    return tuple(width * c for c in (32, 64, 128))


def max_stem_weight_bits(stem: str, in_channels: int) -> int:
    """Returns the most bits of the stem's integer weights for which all its sums are exact in float32."""
    kernel_size = 3 if stem == "cifar" else 7
    return most_weight_bits(pixels.LARGEST, kernel_size**2 * in_channels)


def is_float(config: "ConfigDict") -> bool:
    """Returns whether a `model` config describes a network with float weights and float activations."""
    floats = config.activation == "none" or all(bits == 32 for bits in config.act_bits)
    return config.weight_bits == 32 and floats


def has_integer_form(config: "ConfigDict") -> bool:
    """Returns whether a `model` config describes a network that can be folded to integers.

    It must have binary weights and a quantizer for all activations.
    """
    return (
        config.weight_bits == 1
        and config.activation != "none"
        and all(bits != 32 for bits in config.act_bits)
    )
