"""Sets of any kind that TFDS has prepared: their features, their splits, their labels, and what is refused."""

import io
import logging
import pathlib
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.data import DataError, builders, load_dataset, prepare_dataset
from qresnet_jax.data.streaming.encoded import decode
from tests.data.set_cases import config, rewrite


def prepare_other(data_dir, features, splits, supervised_keys=None, disable_shuffling=False):
    """Prepares the set "other" with TFDS; splits: name -> list of examples."""
    import tensorflow_datasets as tfds

    class Other(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        pkg_dir_path = pathlib.Path(__file__).parent

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=supervised_keys,
                disable_shuffling=disable_shuffling,
            )

        def _split_generators(self, dl_manager):
            return {name: enumerate(examples) for name, examples in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    Other(data_dir=data_dir, file_format="array_record").download_and_prepare()
    return config("other", data_dir)


def picture(shape, form="PNG", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return io.BytesIO(buffer.getvalue()), pixels


def features(shape=(6, 5, 3), **more):
    import tensorflow_datasets as tfds

    return {
        "image": tfds.features.Image(shape=shape),
        "label": tfds.features.ClassLabel(names=["no", "yes"]),
    } | more


def test_a_set_prepared_by_tfds_is_read_and_validation_stands_in_for_test(tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="qresnet_jax")
    pixels = [picture((6, 5, 3), seed=i)[1] for i in range(4)]
    examples = [{"image": picture((6, 5, 3), seed=i)[0], "label": i % 2} for i in range(4)]
    cfg = prepare_other(tmp_path, features(), {"train": examples[:3], "validation": examples[3:]})
    data = load_dataset(cfg)
    np.testing.assert_array_equal(data.test.images, pixels[3:])
    assert sorted(map(bytes, data.train.images)) == sorted(map(bytes, pixels[:3]))
    assert data.validation is None and data.class_names == ("no", "yes")  # floor(3 * 0.1) images
    assert "no test split: its validation split is used as test" in caplog.text
    assert (
        prepare_dataset(cfg) == load_dataset(config("other:1.0.0", tmp_path)) or prepare_dataset(cfg).is_dir()
    )


def test_sets_that_do_not_fit_are_refused_with_the_reason(tmp_path):
    import tensorflow_datasets as tfds

    def example(shape=(6, 5, 3), label=0):
        return {"image": picture(shape)[0], "label": label}

    def two(train=(6, 5, 3), test=(6, 5, 3), label=0):
        return {"train": [example(), example(train)], "test": [example(test, label)]}

    def bare():
        return {part: [{"image": picture((6, 5, 3))[0]}] for part in ("train", "test")}

    wide = features() | {"image": tfds.features.Image(shape=(6, 5, 3), dtype=np.uint16)}
    cases = {
        "size": (features((None, None, 3)), two(train=(7, 5, 3)), "images have different sizes.*image_size"),
        "sizes": (features((None, None, 3)), two(test=(9, 9, 3)), "images have different sizes"),
        "one image": (
            features(),
            {"train": stripes(2, 2)},
            "no test split, and every class has a single train image",
        ),
        "no train": (
            features(),
            {"test": [example()]},
            r"splits train and test, got \['test'\].*nothing to learn",
        ),
        "label": ({"image": wide["image"]}, bare(), "expected the features 'image'.* and 'label'"),
        "uint16": (wide, two(), "expected uint8 images, got uint16"),
        "hidden": (features(), two(label=-1), "a split without labels"),
    }
    for name, (described, splits, message) in cases.items():
        cfg = prepare_other(tmp_path / name, described, splits)
        with pytest.raises(DataError, match=message):
            load_dataset(cfg)


def tiny(value):
    """A picture of one pixel, which tells it from all others."""
    buffer = io.BytesIO()
    Image.fromarray(np.array([[[value, 0, 0]]], np.uint8)).save(buffer, "PNG")
    return io.BytesIO(buffer.getvalue())


def values(split):
    return split.images[:, 0, 0, 0].tolist()


def kinds():
    import tensorflow_datasets as tfds

    f = tfds.features
    return SimpleNamespace(
        image=lambda: f.Image(shape=(1, 1, 3)),
        classes=lambda n=2: f.ClassLabel(num_classes=n),
        mask=lambda: f.LabeledImage(labels=2, shape=(1, 1, 1)),
        number=lambda: f.Scalar(np.int64),
        text=f.Text,
        several=lambda: f.Sequence(f.ClassLabel(num_classes=2)),
        pixels=lambda: f.Tensor(shape=(1, 1, 3), dtype=np.uint8),
    )


NAMED = {
    "keys": (("img", "cls"), {"img": "image", "cls": "classes"}, ("img", "cls")),
    "keys of three": (("img", "cls", "w"), {"img": "image", "cls": "classes", "w": "number"}, ("img", "cls")),
    "keys before the usual names": (
        ("photo", "kind"),
        {"image": "image", "label": "classes", "photo": "image", "kind": "classes"},
        ("photo", "kind"),
    ),
    "one of two classes": (
        ("image", "coarse"),
        {"image": "image", "label": "classes", "coarse": "classes"},
        ("image", "coarse"),
    ),
    "no keys, the usual names": (
        None,
        {"image": "image", "label": "classes", "photo": "image", "kind": "classes"},
        ("image", "label"),
    ),
    "no keys, one of each": (None, {"img": "image", "cls": "classes", "note": "text"}, ("img", "cls")),
    "keys of another task": (
        ("image", "note"),
        {"image": "image", "label": "classes", "note": "text"},
        ("image", "label"),
    ),
    "keys the other way round": (
        ("label", "image"),
        {"image": "image", "label": "classes"},
        ("image", "label"),
    ),
    "nested keys": (
        ({"a": "image", "b": "note"}, "label"),
        {"image": "image", "label": "classes", "note": "text"},
        ("image", "label"),
    ),
}


@pytest.mark.parametrize(("supervised", "described", "expected"), NAMED.values(), ids=NAMED.keys())
def test_the_images_and_classes_are_those_that_the_set_names(
    tmp_path, caplog, supervised, described, expected
):
    caplog.set_level(logging.INFO, logger="qresnet_jax")
    make = {"image": tiny, "classes": lambda i: i % 2, "number": int, "text": str}

    def example(i):  # each feature holds something else
        return {key: make[kind](i + 50 * (key in expected)) for key, kind in described.items()}

    wanted = {key: getattr(kinds(), kind)() for key, kind in described.items()}
    splits = {"train": [example(i) for i in range(4)], "test": [example(9)]}
    data = load_dataset(prepare_other(tmp_path, wanted, splits, supervised))
    assert sorted(values(data.train)) == [50, 51, 52, 53] and values(data.test) == [59]
    assert data.train.labels.tolist() == [v % 2 for v in values(data.train)]
    said = f"the images are in {expected[0]!r}, their classes in {expected[1]!r}"
    assert (said in caplog.text) == (expected != ("image", "label"))


UNFIT = {
    "pixels that are no Image": (
        None,
        {"image": "pixels", "label": "classes"},
        "'image' .Tensor., 'label' .ClassLabel.",
    ),
    "numbers as classes": (None, {"image": "image", "label": "number"}, "'image' .Image., 'label' .Scalar."),
    "texts as classes": (None, {"image": "image", "label": "text"}, "'label' .Text."),
    "several classes an image": (None, {"image": "image", "label": "several"}, "'label' .Sequence."),
    "a class for each pixel": (None, {"mask": "mask", "label": "classes"}, "'mask' .LabeledImage."),
    "two images, none named": (
        None,
        {"left": "image", "right": "image", "cls": "classes"},
        "supervised_keys=None",
    ),
    "two classes, none named": (None, {"image": "image", "a": "classes", "b": "classes"}, "'b' .ClassLabel."),
    "keys of another task": (
        ("img", "note"),
        {"img": "image", "cls": "classes", "note": "text"},
        r"supervised_keys=.'img', 'note'.",
    ),
}


@pytest.mark.parametrize(("supervised", "described", "message"), UNFIT.values(), ids=UNFIT.keys())
def test_features_that_are_no_images_with_classes_are_listed(tmp_path, supervised, described, message):
    make = {
        "image": tiny,
        "classes": lambda i: i % 2,
        "number": int,
        "text": str,
        "several": lambda i: [i % 2],
        "mask": lambda i: np.zeros((1, 1, 1), np.uint8),
        "pixels": lambda i: np.zeros((1, 1, 3), np.uint8),
    }
    if "mask" in described.values():  # writing one needs TensorFlow; only the description matters here
        make["mask"] = lambda i: picture((1, 1))[0]
    wanted = {key: getattr(kinds(), kind)() for key, kind in described.items()}
    splits = {
        part: [{key: make[kind](i) for key, kind in described.items()} for i in range(2)]
        for part in ("train", "test")
    }
    cfg = prepare_other(tmp_path, wanted, splits, supervised)
    with pytest.raises(
        DataError, match=f"expected the features 'image' .* got .*{message}.*: choose an image"
    ):
        load_dataset(cfg)


def stripes(n, classes=3):
    """n examples, sorted by class."""
    return [{"image": tiny(i), "label": i * classes // n} for i in range(n)]


@pytest.mark.parametrize("disable_shuffling", [False, True])
def test_of_a_set_with_a_train_split_only_a_tenth_of_each_class_becomes_the_test_split(
    tmp_path, caplog, disable_shuffling
):
    caplog.set_level(logging.INFO, logger="qresnet_jax")
    wanted = {"image": kinds().image(), "label": kinds().classes(3)}
    cfg = prepare_other(tmp_path, wanted, {"train": stripes(90)}, disable_shuffling=disable_shuffling)
    data, again = (load_dataset(SimpleNamespace(**vars(cfg), holdout=0.2)) for _ in range(2))
    for part in ("train", "validation", "test"):
        np.testing.assert_array_equal(getattr(data, part).images, getattr(again, part).images)
        np.testing.assert_array_equal(getattr(data, part).labels, getattr(again, part).labels)
        split = getattr(data, part)
        assert split.labels.tolist() == [v // 30 for v in values(split)]
        assert set(split.labels.tolist()) == {0, 1, 2}, f"{part} lacks a class"
    everything = values(data.train) + values(data.validation) + values(data.test)
    assert sorted(everything) == list(range(90))
    assert np.bincount(data.test.labels).tolist() == [3, 3, 3] and len(data.validation.labels) == 16
    assert (
        "no test split: every tenth train image of each class is kept as test, 9 of 90 images" in caplog.text
    )
    assert ("prepared without shuffling" in caplog.text) == disable_shuffling


@pytest.mark.parametrize("n", [3, 4, 9, 10, 11, 19, 20])
def test_the_test_split_of_a_small_set_has_an_image_of_each_class_with_two(tmp_path, n):
    wanted = {"image": kinds().image(), "label": kinds().classes(2)}
    cfg = prepare_other(tmp_path, wanted, {"train": stripes(n, 2)})
    data = load_dataset(SimpleNamespace(**vars(cfg), holdout=0))
    counts = np.bincount([i * 2 // n for i in range(n)])
    assert np.bincount(data.test.labels, minlength=2).tolist() == [int(count > 1) for count in counts]
    assert len(data.train.labels) == n - len(data.test.labels)


def test_an_empty_test_split_counts_as_none_and_a_validation_split_beside_a_test_split_is_mentioned(
    tmp_path, caplog
):
    caplog.set_level(logging.INFO, logger="qresnet_jax")
    wanted = {"image": kinds().image(), "label": kinds().classes(2)}
    val = {"train": stripes(4, 2), "val": stripes(3, 2), "extra": stripes(2, 2)}
    assert len(load_dataset(prepare_other(tmp_path / "val", wanted, val)).test.labels) == 3
    assert "its val split is used as test" in caplog.text and "than are used: extra" in caplog.text
    three = {"train": stripes(4, 2), "validation": stripes(3, 2), "test": stripes(2, 2)}
    cfg = prepare_other(tmp_path, wanted, three)
    assert len(load_dataset(cfg).test.labels) == 2 and "more splits than are used: validation" in caplog.text
    directory = prepare_dataset(cfg)
    rewrite(
        directory, lambda info: [s.update(shardLengths=["0"]) for s in info["splits"] if s["name"] == "test"]
    )
    assert len(load_dataset(cfg).test.labels) == 3


# ---- Sets of one class, and labels beyond the classes ------------------------------------------------------------


@pytest.mark.parametrize("names", [["only"], None])
def test_a_set_of_one_class_is_refused_before_it_is_read(tmp_path, monkeypatch, names):
    import tensorflow_datasets as tfds

    label = tfds.features.ClassLabel(names=names, num_classes=None if names else 1)
    splits = {"train": [{"image": tiny(i), "label": 0} for i in range(3)]}
    cfg = prepare_other(tmp_path, {"image": kinds().image(), "label": label}, splits)
    monkeypatch.setattr("qresnet_jax.data.prepared._read_split", None)
    with pytest.raises(
        DataError, match="only class '(only|0)', so .* choose a set with two or more classes, or add"
    ):
        load_dataset(cfg)
    with pytest.raises(DataError, match="choose a set with two or more classes"):
        prepare_dataset(cfg)


@pytest.mark.parametrize("label", [-1, 2, 2**31, 2**32, 2**32 + 1, -(2**63), 2**63 - 1])
def test_labels_beyond_the_classes_are_refused_whatever_their_size(tmp_path, label):
    wanted = {"image": kinds().image(), "label": kinds().number()}
    splits = {part: [{"image": tiny(i), "label": i} for i in range(2)] for part in ("train", "test")}
    splits["test"].append({"image": tiny(7), "label": label})
    cfg = prepare_other(tmp_path / "numbers", wanted, splits)
    wanted["label"] = kinds().classes()
    fit = prepare_other(
        tmp_path / "classes", wanted, {part: examples[:2] for part, examples in splits.items()}
    )
    described = prepare_dataset(fit) / "features.json"
    (builders.prepared_dir("other", cfg.data_dir) / "features.json").write_text(described.read_text())
    low, high = min(0, label), max(1, label)
    with pytest.raises(DataError, match=f"labels of 'test' run from {low} to {high}, expected 0 to 1"):
        load_dataset(cfg)


def test_pictures_of_every_mode_get_the_declared_channels():
    grey, grey_alpha, colour, alpha = (4, 3), (4, 3, 2), (4, 3, 3), (4, 3, 4)
    modes = ((grey, 1), (grey, None), (grey, 0), (grey_alpha, 2), (colour, 3), (colour, None), (alpha, 4))
    for shape, channels in modes:
        for form in ("PNG", "TIFF"):
            file, pixels = picture(shape, form)
            np.testing.assert_array_equal(decode(file.getvalue(), channels), pixels.reshape(4, 3, -1))
    file, pixels = picture((4, 3))
    np.testing.assert_array_equal(decode(file.getvalue(), 3), np.repeat(pixels[..., None], 3, axis=2))
    assert decode(picture((4, 3, 3), "JPEG")[0].getvalue(), 3).shape == (4, 3, 3)
