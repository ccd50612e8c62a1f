"""Trains a network of one's own, ships it, and runs it with three engines.

    python examples/own_network.py [--epochs=10] [--workdir=runs/own_network]

It trains on scikit-learn's digits, which need no download. The same network can be trained by the command, too:

    qresnet --config=digits --config.model.name=examples/own_network.py:vgg
"""

import argparse
import logging

import numpy as np
from flax import nnx

import qresnet_jax
from qresnet_jax import nn as qnn
from qresnet_jax.commands.export import export_run
from qresnet_jax.data import load_dataset


class Vgg(nnx.Module):
    """Three convolutions, each with a pool, and a dense layer on what is left of the image, as in a VGG."""

    def __init__(self, config, rngs):
        self.stem = qnn.StemConv(config.in_channels, 16, 3, rngs=rngs)
        self.convs = nnx.List([qnn.BinaryConv(16, 32, 3, rngs=rngs), qnn.BinaryConv(32, 64, 3, rngs=rngs)])
        self.dense = qnn.BinaryDense(64 * 2 * 2, 64, rngs=rngs)
        self.norms = nnx.List([qnn.BatchNorm(n, rngs=rngs) for n in (16, 32, 64, 64)])
        self.acts = nnx.List([qnn.PACT(bits=2) for _ in range(4)])
        self.head = qnn.Classifier(64, config.num_classes, rngs=rngs)

    def __call__(self, images):
        x = self.acts[0](qnn.relu(self.norms[0](self.stem(images))))
        for conv, norm, act in zip(self.convs, self.norms[1:3], self.acts[1:3], strict=True):
            x = qnn.max_pool(act(qnn.relu(norm(conv(x)))), 2)
        x = self.dense(qnn.flatten(x))
        return self.head(self.acts[3](qnn.relu(self.norms[3](x))))


def vgg(config, *, rngs):
    """The function that a config names; it gets the model part of the config."""
    return Vgg(config, rngs)


if __name__ == "__main__":
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about settings that are intended
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workdir", default="runs/own_network")
    arguments = parser.parse_args()

    config = qresnet_jax.load_config("digits")
    config.num_epochs = arguments.epochs
    config.model.name = f"{__file__}:vgg"
    metrics = qresnet_jax.train_and_evaluate(config, arguments.workdir)
    print(f"trained: {metrics['test_accuracy']:.2%} of the test images are classified correctly")

    (path,) = export_run(config, arguments.workdir)
    images, labels = load_dataset(config.data).test
    reference = qresnet_jax.load_packed(path, engine="numpy").logits(images)
    for engine in ("jax", "c"):
        network = qresnet_jax.load_packed(path, engine=engine)
        assert np.array_equal(network.logits(images), reference)
    accuracy = np.mean(reference.argmax(-1) == labels)
    print(
        f"shipped: {path} has {network.nbytes:,} bytes and classifies {accuracy:.2%} correctly, with every engine"
    )
    print("as C:", ", ".join(file.name for file in network.export(path.parent / "c", format="c")))
