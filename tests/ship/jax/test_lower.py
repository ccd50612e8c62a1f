import dataclasses

import jax
import numpy as np
import pytest

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.fold import fold
from qresnet_jax.ship.jax import engine as jax_engine
from qresnet_jax.ship.jax.lower import lower
from qresnet_jax.train.parallel import device_mesh

# Every block and quantizer, as in the networks of `tests/ship/conftest.py`.
ARCHITECTURES = [
    ("basic", "pact"),
    ("preact_basic", "lsq"),
    ("bottleneck", "fixed"),
    ("preact_bottleneck", "sigmoid"),
    ("preact_basic", "power_of_two"),
]


@pytest.mark.parametrize(("block", "activation"), ARCHITECTURES)
def test_networks_of_one_architecture_share_a_program(block, activation, build_model):
    """Whatever they learned: other signs of gammas, other clipping levels, other means, other sizes of sums."""
    networks = [
        fold(build_model(activation, block, seed), mean=mean, image_shape=(8, 8))
        for seed, mean in ((0, 127.5), (1, 3), (2, 255))
    ]
    for network in networks[1:]:
        for node, first in zip(network.nodes, networks[0].nodes, strict=True):
            if isinstance(node, nodes.BinaryConvNode):
                assert np.any(node.signs != first.signs)
    programs, constants = zip(*map(lower, networks), strict=True)
    assert len(set(programs)) == 1
    structures = {jax.tree.structure(each) for each in constants}
    shapes = {tuple((x.shape, x.dtype) for x in jax.tree.leaves(each)) for each in constants}
    assert len(structures) == len(shapes) == 1


def test_other_architectures_have_other_programs(build_model):
    networks = [
        fold(build_model(**changes), image_shape=size)
        for changes, size in [
            ({}, (8, 8)),
            ({}, (8, 9)),
            ({"act_bits": (2, 3)}, (8, 8)),
            ({"activation": "power_of_two"}, (8, 8)),
            ({"block": "preact_basic"}, (8, 8)),
            ({"stem": "imagenet", "stem_weight_bits": 8}, (8, 8)),
        ]
    ]
    assert len({lower(network)[0] for network in networks}) == len(networks)


def test_other_windows_and_groups_have_other_programs(build_model):
    network = fold(build_model())
    i, node = next((i, n) for i, n in enumerate(network.nodes) if isinstance(n, nodes.BinaryConvNode))
    features = node.signs.shape[2]
    others = [
        dataclasses.replace(node, window=node.window._replace(padding=((1, 1), (2, 0)))),
        dataclasses.replace(node, window=node.window._replace(padding=((2, 0), (1, 1)))),
        dataclasses.replace(node, groups=features, signs=node.signs[:, :, :1]),
    ]
    programs = [
        lower(dataclasses.replace(network, nodes=(*network.nodes[:i], other, *network.nodes[i + 1 :])))[0]
        for other in (node, *others)
    ]
    assert len(set(programs)) == len(programs)


def test_networks_in_training_are_exact_and_compile_once(build_model, make_images):
    images = make_images(21, (8, 8, 3))
    mesh = device_mesh(jax.devices()[:2])
    run = jax_engine._run_on_mesh(mesh, "cpu")
    compiled = run._cache_size()
    for seed in range(3):
        network = fold(build_model(seed=seed), mean=[1, 2, 3])
        result = jax_engine.on_mesh(network, mesh)(images)
        np.testing.assert_array_equal(result, reference.logits(network, images))
    assert run._cache_size() == compiled + 1


def test_a_network_that_fold_would_not_make_has_a_program_of_its_own(build_model, make_images):
    network = fold(build_model())
    i, node = next((i, n) for i, n in enumerate(network.nodes) if isinstance(n, nodes.RequantizeNode))
    wide = dataclasses.replace(node, multiplier=np.full_like(node.multiplier, 2**31 - 1))
    other = dataclasses.replace(network, nodes=(*network.nodes[:i], wide, *network.nodes[i + 1 :]))
    (_, constants), (_, wide_constants) = lower(network), lower(other)
    assert type(constants[i]) is not type(wide_constants[i])
