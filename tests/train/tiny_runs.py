"""Runs of seconds, in this process: a tiny set, a small network, and what the runs leave."""

import contextlib
import json

import jax
import numpy as np
import pytest

from qresnet_jax.config import default_config
from qresnet_jax.data import ImageDataset, Split
from qresnet_jax.train import evaluator, loop, parts

# At a constant rate, so that the program is the same for every number of epochs.
FLOAT = {"model.weight_bits": 32, "model.activation": "none", "optim.schedule": "constant"}


def tiny_set(data_config, *_):
    """Four classes of bright quarters in noise: 40 train, 16 validation (unless holdout is 0) and 20 test images."""
    rng = np.random.default_rng(0)

    def split(n):
        images, labels = rng.integers(0, 128, (n, 8, 8, 1), np.uint8), rng.integers(0, 4, n, np.int32)
        for image, label in zip(images, labels, strict=True):
            image[4 * (label // 2) : 4 * (label // 2) + 4, 4 * (label % 2) : 4 * (label % 2) + 4] += 100
        return Split(images, labels)

    train, validation, test = split(40), split(16), split(20)
    validation = validation if data_config.holdout else None
    return ImageDataset(train=train, validation=validation, test=test, class_names=tuple("abcd"), name="tiny")


@contextlib.contextmanager
def tiny_data(load=tiny_set):
    """While it lasts, every data set is the tiny one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "load_dataset", load)
        patch.setattr(evaluator, "load_dataset", load)
        yield


def run(workdir, **changes):
    """Trains on one device for 3 epochs of 3 steps, unless changed."""
    return loop.train_and_evaluate(configuration(**changes), workdir, devices=jax.devices()[:1])


def configuration(**changes):
    config = default_config()
    config.batch_size, config.num_epochs, config.log_every_steps = 16, 3, 2
    config.data.flip = False
    config.data.crop_padding = 0
    config.model.depth, config.model.in_channels, config.model.num_classes = 8, 1, 4
    config.update_from_flattened_dict(changes)
    return config


def lines(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def kept(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


def without_speed(records):
    return [{k: v for k, v in line.items() if k != "images_per_second"} for line in records]
