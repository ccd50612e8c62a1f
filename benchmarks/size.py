"""Counts what the networks cost: parameters, bytes as float32 and packed, multiplications.

    python benchmarks/size.py [--save]

The networks are those of the configs, before training. Training changes none of these figures, except that the header of
the packed file may grow or shrink by a few bytes, as it has numbers in text. Clipping levels (one per quantizer) are not
counted.
"""

import argparse

import jax
from flax import nnx
from results import add_save_option, measured, save
from templates.accuracy import sizes

from qresnet_jax import create_model, default_config
from qresnet_jax.ship.costs import layer_table, totals
from qresnet_jax.system.machine import processors

NAME = "size"
NETWORKS = {  # key -> title, depth, shape of an image
    "resnet20": ("ResNet-20 W1A2, 32x32x3", 20, (32, 32, 3)),
    "fashion_mnist": ("ResNet-20 W1A2, 28x28x1", 20, (28, 28, 1)),
    "digits": ("ResNet-8 W1A2, 8x8x1", 8, (8, 8, 1)),
}


def costs(title: str, depth: int, image_shape: tuple[int, int, int]) -> dict:
    """Returns the figures of a network with 1-bit weights and 2-bit activations."""
    config = default_config().model
    config.depth, config.in_channels = depth, image_shape[-1]
    model = create_model(config, rngs=nnx.Rngs(0))
    total = totals(layer_table(model, image_shape))
    parameters = total.parameters - total.clipping_levels
    return {
        "network": title,
        "parameters": parameters,
        "binary_parameters": total.binary_parameters,
        "clipping_levels": total.clipping_levels,
        "float_bytes": 4 * parameters,
        "packed_bytes": total.packed_bytes,
        "macs": total.macs,
        "binary_macs": total.binary_macs,
        "bops": total.bops,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_save_option(parser, NAME)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    found = {key: measured(costs(*network), cores=processors()) for key, network in NETWORKS.items()}
    print(sizes(found))
    if args.save:
        for key, measurement in found.items():
            path = save(NAME, key, measurement, args.save)
        print("wrote", path)


if __name__ == "__main__":
    main()
