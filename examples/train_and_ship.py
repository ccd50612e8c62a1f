"""Trains a small network from Python, exports it as integers, and runs the exported file with two engines.

    python examples/train_and_ship.py [--epochs=10] [--workdir=runs/train_and_ship]

It trains on scikit-learn's digits, which need no download. With the same workdir it continues where it stopped.
"""

import argparse
import logging

import numpy as np

import qresnet_jax
from qresnet_jax.commands.export import export_run
from qresnet_jax.data import load_dataset

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax warns about settings that are intended

parser = argparse.ArgumentParser()
parser.add_argument("--epochs", type=int, default=10)
parser.add_argument("--workdir", default="runs/train_and_ship")
arguments = parser.parse_args()

# A config that ships with the package, with a few fields changed. qresnet_jax/config/fields.py lists and explains all fields.
config = qresnet_jax.load_config("digits")
config.num_epochs = arguments.epochs
config.model.act_bits = (2, 2, 4)  # bits of the activations, for each of the three stages

# Trains, keeps the checkpoint with the best validation accuracy, and measures it on the test set.
metrics = qresnet_jax.train_and_evaluate(config, arguments.workdir)
print(f"trained: {metrics['test_accuracy']:.2%} of the test images are classified correctly")

# Folds the network into integers, writes a packed file, and checks that the file computes the same.
(path,) = export_run(config, arguments.workdir)

# All engines compute the same integers from the file. "numpy" defines what they are, "jax" and "c" are fast.
images, labels = load_dataset(config.data).test
reference = qresnet_jax.load_packed(path, engine="numpy")
fast = qresnet_jax.load_packed(path, engine="jax")
assert np.array_equal(reference.logits(images), fast.logits(images))

accuracy = np.mean(fast.predict(images) == labels)
print(f"shipped: {path} has {fast.nbytes} bytes and classifies {accuracy:.2%} correctly, with either engine")
