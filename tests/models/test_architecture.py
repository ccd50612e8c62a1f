import pytest
from ml_collections import ConfigDict

from qresnet_jax.models import architecture


@pytest.mark.parametrize("block", ["basic", "preact_basic"])
@pytest.mark.parametrize("depth, n", [(8, 1), (20, 3), (32, 5), (44, 7), (56, 9), (110, 18), (1202, 200)])
def test_basic_cifar_depths_are_6n_plus_2(block, depth, n):
    assert architecture.blocks_per_stage(depth, block, "cifar") == (n, n, n)
    assert 1 + 3 * n * 2 + 1 == depth  # stem, two convolutions per block, classifier


@pytest.mark.parametrize("block", ["bottleneck", "preact_bottleneck"])
@pytest.mark.parametrize("depth, n", [(11, 1), (29, 3), (164, 18), (1001, 111)])
def test_bottleneck_cifar_depths_are_9n_plus_2(block, depth, n):
    assert architecture.blocks_per_stage(depth, block, "cifar") == (n, n, n)
    assert 1 + 3 * n * 3 + 1 == depth


@pytest.mark.parametrize(
    "depth, block, per_block", [(18, "basic", 2), (34, "basic", 2), (50, "bottleneck", 3)]
)
def test_imagenet_depths_count_their_layers(depth, block, per_block):
    for name in (block, f"preact_{block}"):
        stages = architecture.blocks_per_stage(depth, name, "imagenet")
        assert len(stages) == 4
        assert 1 + per_block * sum(stages) + 1 == depth


@pytest.mark.parametrize("depth", [-4, 0, 2, 9, 19, 21, 163])
def test_other_basic_depths_are_refused_with_examples(depth):
    message = rf"model.depth={depth} with basic blocks: the depth must be 6n\+2 \(n >= 1\), for example 20, 32, 44, 56, 110, 1202"
    with pytest.raises(ValueError, match=message):
        architecture.blocks_per_stage(depth, "basic", "cifar")


@pytest.mark.parametrize("depth", [2, 19, 32, 163])
def test_other_bottleneck_depths_are_refused_with_examples(depth):
    message = rf"model.depth={depth} with preact_bottleneck blocks: the depth must be 9n\+2 \(n >= 1\), for example .*164, 1001"
    with pytest.raises(ValueError, match=message):
        architecture.blocks_per_stage(depth, "preact_bottleneck", "cifar")


@pytest.mark.parametrize("depth, block", [(20, "basic"), (50, "basic"), (18, "bottleneck")])
def test_other_imagenet_depths_are_refused_with_the_list(depth, block):
    message = rf"model.depth={depth} with {block} blocks and the imagenet stem: the depth must be one of 18 \(basic\), 34 \(basic\), 50 \(b"
    with pytest.raises(ValueError, match=message):
        architecture.blocks_per_stage(depth, block, "imagenet")


def test_unknown_names_are_refused_with_the_list():
    with pytest.raises(ValueError, match="model.stem must be one of cifar, imagenet, got 'mnist'"):
        architecture.blocks_per_stage(20, "basic", "mnist")
    with pytest.raises(
        ValueError, match="model.block must be one of basic, bottleneck, preact_basic, .*, got 'wide'"
    ):
        architecture.blocks_per_stage(20, "wide", "cifar")


def test_block_kind_splits_every_name():
    kinds = {name: architecture.block_kind(name) for name in architecture.BLOCKS}
    assert kinds == {
        "basic": ("basic", False),
        "bottleneck": ("bottleneck", False),
        "preact_basic": ("basic", True),
        "preact_bottleneck": ("bottleneck", True),
        "bireal": ("basic", False),
    }


def test_stage_widths_scale():
    assert architecture.stage_widths(3, "cifar") == (48, 96, 192)
    assert architecture.stage_widths(1, "imagenet") == (64, 128, 256, 512)


@pytest.mark.parametrize("in_channels", [1, 2, 3, 4, 13])
@pytest.mark.parametrize("stem, kernel_size", [("cifar", 3), ("imagenet", 7)])
def test_max_stem_weight_bits_is_tight(stem, kernel_size, in_channels):
    def largest_sum(bits):  # every normalised pixel at 2 * 255 - 2 * 0, every weight at its largest
        return 510 * kernel_size**2 * in_channels * (2 ** (bits - 1) - 1)

    bits = architecture.max_stem_weight_bits(stem, in_channels)
    assert largest_sum(bits) < 2**24 <= largest_sum(bits + 1)


@pytest.mark.parametrize(
    "change, expected",
    [
        ({}, True),
        ({"activation": "power_of_two", "act_bits": (1, 2, 3)}, True),
        ({"weight_bits": 32}, False),
        ({"activation": "none"}, False),
        ({"act_bits": (2, 2, 32)}, False),
    ],
)
def test_has_integer_form_needs_binary_weights_and_quantized_activations(change, expected):
    config = ConfigDict({"weight_bits": 1, "activation": "pact", "act_bits": (2, 2, 2)})
    config.update(change)
    assert architecture.has_integer_form(config) is expected
