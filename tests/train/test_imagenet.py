"""The ImageNet configs on a generated set of the same form, end to end; only the sizes and the number of images differ."""

import jax
import numpy as np
import pytest

from qresnet_jax import load_config
from qresnet_jax.data import DataError, StreamedDataset, load_dataset
from qresnet_jax.errors import ConfigError
from qresnet_jax.train.evaluator import evaluate_checkpoint
from qresnet_jax.train.loop import train_and_evaluate
from tests.train.imagenet_cases import CLASSES, prepare_imagenet
from tests.train.tiny_runs import FLOAT, configuration, lines

SMALL = {
    **{"batch_size": 8, "num_epochs": 1, "optim.warmup_epochs": 0.0, "dtype": "float32"},
    **{"data.image_size": 32, "data.workers": 0, "data.holdout": 0.2},
}


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    prepare_imagenet(directory)
    return directory


def imagenet(data_dir, name="imagenet_resnet18_w1a2", **changes):
    config = load_config(name)
    config.update_from_flattened_dict({**SMALL, "data.data_dir": str(data_dir), **changes})
    return config


# Compiling these networks takes a minute or more.
@pytest.mark.slow
@pytest.mark.parametrize("depth", [18, 34, 50])
def test_the_configs_train_end_to_end(data_dir, tmp_path, depth):
    config, devices = imagenet(data_dir, f"imagenet_resnet{depth}_w1a2"), jax.devices()[:1]
    assert config.model.depth == depth and config.model.num_classes == CLASSES
    result = train_and_evaluate(config, tmp_path, devices=devices)
    assert np.isfinite(result["test_loss"]) and lines(tmp_path)[-1]["step"] == 2
    if depth == 18:
        again = evaluate_checkpoint(config, tmp_path, devices=devices)
        assert (
            again["test_loss"] == result["test_loss"] and again["shipped_accuracy"] == result["test_accuracy"]
        )


@pytest.fixture
def small_run(data_dir):
    """A config with the data of ImageNet's, and a network that compiles in seconds."""
    data = imagenet(data_dir).data
    config = configuration(**FLOAT, batch_size=8)
    config.update_from_flattened_dict({f"data.{name}": value for name, value in data.items()})
    config.model.in_channels, config.model.num_classes = 3, CLASSES
    return config


@pytest.mark.slow
def test_random_parts_train_the_same_run_with_any_number_of_workers_and_a_validation_split_with_labels_is_the_test(
    small_run, tmp_path
):
    results = []
    for workers in (0, 2):
        small_run.data.workers, small_run.num_epochs = workers, 2
        results.append(train_and_evaluate(small_run, tmp_path / str(workers), devices=jax.devices()[:2]))
        results[-1].pop("images_per_second", None)
    assert results[0] == results[1] and results[0]["step"] == 4
    log = (tmp_path / "0" / "train.log").read_text()
    assert (
        "are read from the disk and decoded by a thread of this process: as random parts of them are cut out"
        in log
    )
    assert "has no labels in its test split" in log
    assert "16 train, 4 validation, 9 test images of 32x32x3" in log


def test_each_image_counts_once_in_a_test(small_run):
    data = load_dataset(small_run.data)
    assert isinstance(data, StreamedDataset)
    labels = np.concatenate([part.labels for part in data.test.parts()])
    assert len(labels) == data.test.num_images == 9


def test_images_of_different_sizes_need_an_image_size(small_run):
    small_run.data.least_crop_area, small_run.data.image_size, small_run.data.workers = 1.0, 0, 0
    for streaming in (True, False):
        small_run.data.streaming = streaming
        with pytest.raises(
            DataError, match=r"different sizes: the first has \d+x\d+x3, another has \d+x\d+x3 .*image_size="
        ):
            load_dataset(small_run.data)


def test_in_memory_it_is_what_it_is_streamed_without_random_parts(small_run):
    small_run.data.least_crop_area = 1.0
    sets = []
    for small_run.data.streaming in (True, False):
        sets.append(load_dataset(small_run.data))
    streamed, held = sets
    for part in ("train", "validation", "test"):
        images, labels = (np.concatenate(x) for x in zip(*getattr(streamed, part).parts(), strict=True))
        np.testing.assert_array_equal(images, getattr(held, part).images)
        np.testing.assert_array_equal(labels, getattr(held, part).labels)


REFUSED = {
    "one batch for each dispatch": {"steps_per_dispatch": 2},
    "only streaming cuts out random parts": {"data.streaming": False},
    "need config.data.image_size": {"data.image_size": 0},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_streaming_cannot_do_is_refused_before_anything_slow(small_run, tmp_path, message):
    small_run.update_from_flattened_dict(REFUSED[message])
    with pytest.raises(ConfigError, match=message):
        train_and_evaluate(small_run, tmp_path)
