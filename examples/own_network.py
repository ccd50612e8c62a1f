"""Trains a network of one's own, ships it, and runs it with three engines.

    python examples/own_network.py [--epochs=10] [--workdir=runs/own_network]

It trains on scikit-learn's digits, which need no download. The same network can be trained by the command, too:

    qresnet --config=digits --config.model.name=examples/own_network.py:plain
"""

import argparse
import logging

import numpy as np
from flax import nnx

import qresnet_jax
from qresnet_jax import nn as qnn
from qresnet_jax.commands.export import export_run
from qresnet_jax.data import load_dataset


class Plain(nnx.Module):
    """Four convolutions in a row, without residuals, as in a small VGG."""

    def __init__(self, config, rngs):
        widths = (16, 32, 64)
        self.stem, self.norm = (
            qnn.StemConv(config.in_channels, 16, 3, rngs=rngs),
            qnn.BatchNorm(16, rngs=rngs),
        )
        self.acts, self.convs, self.norms = nnx.List(), nnx.List(), nnx.List()
        for before, width, stride in zip((16, *widths), widths, (1, 2, 2), strict=False):
            self.acts.append(qnn.PACT(bits=2))
            self.convs.append(qnn.BinaryConv(before, width, 3, stride, rngs=rngs))
            self.norms.append(qnn.BatchNorm(width, rngs=rngs))
        self.classifier = qnn.Classifier(widths[-1], config.num_classes, rngs=rngs)

    def __call__(self, images):
        x = self.norm(self.stem(images))
        for act, conv, norm in zip(self.acts, self.convs, self.norms, strict=True):
            x = norm(conv(act(qnn.relu(x))))
        return self.classifier(qnn.global_mean(qnn.relu(qnn.to_stream(x))))


def plain(config, *, rngs):
    """The function that a config names; it gets the model part of the config."""
    return Plain(config, rngs)


if __name__ == "__main__":
    logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about settings that are intended
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workdir", default="runs/own_network")
    arguments = parser.parse_args()

    config = qresnet_jax.load_config("digits")
    config.num_epochs = arguments.epochs
    config.model.name = f"{__file__}:plain"
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
