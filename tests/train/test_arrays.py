"""Training on arrays: the set that Python hands over, and what the functions and the commands make of such a run."""

import sys

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict, FrozenConfigDict
from PIL import Image

import qresnet_jax
from qresnet_jax.commands import COMMANDS
from qresnet_jax.commands.export import export_run
from qresnet_jax.data import ImageDataset, take_dataset
from qresnet_jax.errors import CheckpointError, ConfigError, DataError
from qresnet_jax.train.evaluator import evaluate_checkpoint, evaluate_packed, restore_run
from tests.train.tiny_runs import configuration, lines, tiny_set


def arrays(holdout=0, **changes):
    data = tiny_set(configuration(**{"data.holdout": holdout}).data)
    parts = {"train": data.train, "test": data.test, "class_names": data.class_names}
    return ImageDataset(**{**parts, **changes})


def train(workdir, dataset, **changes):
    config = configuration(**{"num_epochs": 1, **changes})
    return qresnet_jax.train_and_evaluate(config, workdir, dataset=dataset, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A trained run on arrays, and its result; nothing may import TFDS or look for data on the way."""
    workdir = tmp_path_factory.mktemp("arrays") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("tensorflow_datasets", "array_record"):
            patch.setitem(sys.modules, name, None)  # its import fails
        return workdir, train(workdir, arrays())


def test_the_public_name_is_the_one_of_the_package():
    assert qresnet_jax.ImageDataset is ImageDataset


def test_arrays_train_to_a_test_accuracy(run):
    workdir, result = run
    assert (
        0 <= result["test_accuracy"] <= 1 and lines(workdir)[-1]["test_accuracy"] == result["test_accuracy"]
    )
    assert (
        "data: arrays, 36 train, 4 validation, 20 test images of 8x8x1" in (workdir / "train.log").read_text()
    )
    assert restore_run(configuration(), workdir).config.data.name == "arrays"


@pytest.mark.parametrize("kind", [ConfigDict, ConfigDict.lock, FrozenConfigDict])
def test_the_callers_config_stays_as_it_was(tmp_path, kind):
    config = kind(configuration())
    with pytest.raises(ConfigError, match="config.model.num_classes=4: must be 5 for pets"):
        five = arrays(class_names=list("abcde"), name="pets")
        qresnet_jax.train_and_evaluate(config, tmp_path, dataset=five)
    assert config.data.name == "cifar10"


def test_something_else_than_a_set_is_refused(run, tmp_path):
    pair, config = (arrays().train, arrays().test), configuration()
    for take in (
        lambda: train(tmp_path, pair),
        lambda: evaluate_checkpoint(config, run[0], dataset=pair),
        lambda: export_run(config, run[0], dataset=pair),
    ):
        with pytest.raises(DataError, match="dataset is a tuple: give a qresnet_jax.ImageDataset"):
            take()


def test_the_validation_split_is_the_end_of_train_unless_one_is_given():
    data, config = arrays(), configuration().data
    split = take_dataset(data, config)
    np.testing.assert_array_equal(split.validation.images, data.train.images[-4:])
    np.testing.assert_array_equal(split.train.labels, data.train.labels[:-4])
    own = arrays(validation=data.test)
    assert take_dataset(own, config) is own
    config.holdout = 0.0
    assert take_dataset(data, config).validation is None


def test_images_sorted_by_class_are_shuffled_before_the_split(caplog):
    caplog.set_level("INFO", logger="qresnet_jax")
    data = arrays()
    order = np.argsort(data.train.labels, kind="stable")[::-1]
    ordered = arrays(train=tuple(x[order] for x in data.train))
    config = configuration(**{"data.holdout": 0.3}).data
    split, again = (take_dataset(ordered, config) for _ in range(2))
    assert (
        len(np.unique(split.validation.labels)) > 1 and "sorted by class, so they are shuffled" in caplog.text
    )
    np.testing.assert_array_equal(split.train.images, again.train.images)
    both = np.concatenate([split.train.images, split.validation.images])
    assert sorted(x.tobytes() for x in both) == sorted(x.tobytes() for x in data.train.images)


def test_a_complete_run_stays_and_goes_on_with_the_same_arrays_only(run):
    workdir, result = run
    assert train(workdir, arrays()) == result
    data = arrays()
    for other in (
        arrays(train=(data.train.images[::-1], data.train.labels)),
        arrays(train=(data.train.images, data.train.labels[::-1])),
        arrays(train=(data.train.images ^ 255, data.train.labels)),
        arrays(class_names=list("abce")),
    ):
        with pytest.raises(
            CheckpointError, match="belongs to a run on other data: .*Restore the data set, or"
        ):
            train(workdir, other)
    with pytest.raises(DataError, match="'arrays'"):
        train(workdir, None, **{"data.name": "arrays"})


def test_a_run_is_evaluated_on_arrays(run):
    workdir, result = run
    measured = evaluate_checkpoint(configuration(), workdir, dataset=arrays())
    assert {name: measured[name] for name in ("test_accuracy", "test_of_step")} == {
        name: result[name] for name in ("test_accuracy", "test_of_step")
    }
    data = arrays()
    first = arrays(test=(data.test.images[:5], data.test.labels[:5]))
    assert evaluate_checkpoint(configuration(), workdir, dataset=first)["test_accuracy"] in np.arange(6) / 5
    with pytest.raises(
        DataError, match="was trained on the classes a, b, c, d, but arrays has the classes a, b, c, e"
    ):
        evaluate_checkpoint(configuration(), workdir, dataset=arrays(class_names=list("abce")))
    wide = tuple((np.tile(images, (1, 1, 2, 1)), labels) for images, labels in (data.train, data.test))
    with pytest.raises(DataError, match="was trained on images of 8x8x1, but arrays has images of 8x16x1"):
        evaluate_checkpoint(configuration(), workdir, dataset=arrays(train=wide[0], test=wide[1]))


def test_a_run_on_arrays_is_exported_with_and_without_them(run, caplog):
    caplog.set_level("INFO", logger="qresnet_jax")
    workdir, result = run
    (path,) = export_run(configuration(), workdir, dataset=arrays())
    assert "20 test images" in caplog.text and "random images" not in caplog.text
    content = path.read_bytes()
    (path,) = export_run(configuration(), workdir)
    assert path.read_bytes() == content
    assert (
        "checked on random images, as the test set cannot be loaded: config.data.name='arrays'" in caplog.text
    )
    config = configuration(packed=str(path))
    assert evaluate_packed(config, dataset=arrays())["shipped_accuracy"] == result["test_accuracy"]


@pytest.mark.parametrize("mode", ["train", "eval", "prepare_data"])
def test_a_command_that_needs_the_arrays_says_in_one_line_what_takes_them(run, tmp_path, mode):
    workdir = run[0] if mode == "eval" else tmp_path
    with pytest.raises(DataError) as caught:
        COMMANDS[mode](configuration(**{"data.name": "arrays"}), workdir)
    assert str(caught.value).startswith(
        "config.data.name='arrays': a command cannot read arrays. In Python, "
    )
    assert "train_and_evaluate, evaluate_checkpoint" in str(caught.value) and "\n" not in str(caught.value)


def test_a_run_on_a_folder_goes_on_with_the_same_images_only(tmp_path):
    data = tiny_set(configuration(**{"data.holdout": 0}).data)
    for part, (images, labels) in (("train", data.train), ("test", data.test)):
        for i, (image, label) in enumerate(zip(images, labels, strict=True)):
            file = tmp_path / "images" / part / "abcd"[label] / f"{i}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[..., 0]).save(file)
    changes = {
        "data.name": "folder",
        "data.raw_dir": str(tmp_path / "images"),
        "data.data_dir": str(tmp_path),
    }
    result = train(tmp_path / "run", None, **changes)
    measured = evaluate_checkpoint(configuration(**changes), tmp_path / "run")
    assert measured["test_accuracy"] == result["test_accuracy"]
    file.unlink()  # a test image: the train images are still the same
    assert train(tmp_path / "run", None, **changes) == result
    next((tmp_path / "images/train/a").iterdir()).unlink()
    with pytest.raises(CheckpointError, match="run on other data: the (pixel means|checksum of the train)"):
        train(tmp_path / "run", None, **changes)
