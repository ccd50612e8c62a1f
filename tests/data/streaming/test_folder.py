"""Folders and archives that are prepared for streaming, against the same images in memory."""

import io

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.config import default_config
from qresnet_jax.data import DataError, StreamedDataset, load_dataset, prepare_dataset
from qresnet_jax.data.streaming import folder
from tests.data.folder.folders import SPLIT, names, pack, pixels, write


def config(tmp_path, streaming=True, raw_dir=None, **changes):
    data = default_config().data
    data.update(
        {"name": "folder", "data_dir": str(tmp_path / "data"), "holdout": 0.0, "workers": 0, **changes}
    )
    data.raw_dir = str(raw_dir or tmp_path / "x")
    data.streaming = streaming
    return data


def rows(split):
    images, labels = (np.concatenate(x) for x in zip(*split.parts(), strict=True))
    assert len(images) == split.num_images and images.shape[1:] == split.image_shape
    return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]


def assert_same(tmp_path, **changes):
    streamed, held = (load_dataset(config(tmp_path, streaming, **changes)) for streaming in (True, False))
    assert isinstance(streamed, StreamedDataset)
    assert streamed.class_names == held.class_names and streamed.image_shape == held.image_shape
    np.testing.assert_array_equal(streamed.mean, held.mean)
    for part in ("train", "validation", "test"):
        one, other = getattr(streamed, part), getattr(held, part)
        assert (one is None) == (other is None)
        if one:
            assert rows(one) == rows(other), part
            np.testing.assert_array_equal(one.first(3), other.first(3))
    return streamed


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_the_images_are_those_in_memory_in_the_same_order_for_every_format(tmp_path, ending):
    write(tmp_path / "x", *names("cat", "dog", "emu", count=12, ending=ending))
    assert_same(tmp_path, holdout=0.2)


@pytest.mark.parametrize("ending", ["tar", "tar.xz", "zip"])
def test_an_archive_gives_what_the_folder_gives(tmp_path, ending, monkeypatch):
    monkeypatch.setattr(folder, "SHARD_BYTES", 500)  # several files
    write(tmp_path / "x", *SPLIT, *names("val/cat", count=2))
    packed = pack(tmp_path / "x", tmp_path / f"packed.{ending}")
    one, other = assert_same(tmp_path), assert_same(tmp_path, raw_dir=packed)
    assert rows(one.train) == rows(other.train) and one.checksum() == other.checksum()
    assert one.validation.num_images == 2


def test_odd_files_are_kept_as_the_pixels_that_training_in_memory_sees(tmp_path):
    write(tmp_path / "x", *names("cat", "dog", ending="jpg"))
    root = tmp_path / "x" / "cat"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.fromarray(pixels("turned")).save(root / "turned.jpg", exif=exif)
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(root / "deep.png")
    Image.fromarray(np.dstack([pixels("a"), pixels("b")[..., :1]])).save(root / "clear.png")
    Image.fromarray(pixels("colours")).quantize(16).save(root / "palette.png")
    Image.fromarray(pixels("print")).convert("CMYK").save(root / "print.jpg")
    Image.fromarray(pixels("grey", channels=1)).save(root / "grey.jpg")
    assert_same(tmp_path)


def test_with_an_image_size_the_middle_squares_are_those_in_memory(tmp_path):
    write(tmp_path / "x", *names("cat", ending="jpg"), size=(20, 30))
    write(tmp_path / "x", *names("dog", ending="png"), size=(40, 31))
    assert assert_same(tmp_path, image_size=16).image_shape == (16, 16, 3)


def test_grey_images_have_one_channel(tmp_path):
    write(tmp_path / "x", *names("cat", "dog"), channels=1)
    assert assert_same(tmp_path).image_shape == (8, 8, 1)


def test_mixed_sizes_are_refused_with_two_of_them_named(tmp_path):
    write(tmp_path / "x", *names("cat"), size=(20, 30))
    write(tmp_path / "x", *names("dog"), size=(40, 31))
    with pytest.raises(
        DataError, match=r"/0.png has \d+x\d+, .*/\d.png has \d+x\d+ .*config.data.image_size="
    ):
        load_dataset(config(tmp_path))


def test_a_broken_file_is_named_and_refused_or_skipped(tmp_path, caplog):
    caplog.set_level("INFO", logger="qresnet_jax")
    write(tmp_path / "x", *SPLIT)
    whole = (tmp_path / "x" / "train/cat/1.png").read_bytes()
    (tmp_path / "x" / "train/cat/1.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"train/cat/1.png cannot be read as an image .*skip_broken=True"):
        load_dataset(config(tmp_path))
    assert list((tmp_path / "data" / "folder").iterdir()) == []
    assert assert_same(tmp_path, skip_broken=True).train.num_images == 5
    assert "skipped: 1, such as train/cat/1.png" in caplog.text


def test_it_is_prepared_once_and_a_damaged_preparation_is_named(tmp_path, monkeypatch):
    write(tmp_path / "x", *SPLIT)
    cfg = config(tmp_path)
    directory = prepare_dataset(cfg)
    with monkeypatch.context() as patch:
        patch.setattr(folder, "decode_all", None)
        assert prepare_dataset(cfg) == directory
    for name in ("train-00000.array_record", "test.npy", "about.json"):
        kept = (directory / name).read_bytes()
        (directory / name).write_bytes(kept[: len(kept) // 2])
        with pytest.raises(DataError, match=f"{directory}.* is damaged .*delete"):
            load_dataset(cfg)
        (directory / name).write_bytes(kept)
    load_dataset(cfg)


def test_auto_streams_what_is_too_large_and_says_the_numbers(tmp_path, caplog):
    caplog.set_level("INFO", logger="qresnet_jax")
    write(tmp_path / "x", *SPLIT)
    size = 10 * 8 * 8 * 3
    assert isinstance(load_dataset(config(tmp_path, "auto"), size - 1), StreamedDataset)
    assert (
        "read from the disk and decoded by a thread of this process: 10 images of 8x8 take 0.00 GB, and up to 0.00"
        in caplog.text
    )
    assert not isinstance(load_dataset(config(tmp_path, "auto"), size), StreamedDataset)
    assert "held in memory: 10 images of 8x8" in caplog.text
    assert not isinstance(load_dataset(config(tmp_path, "auto", image_size=4), size // 4), StreamedDataset)
    assert isinstance(
        load_dataset(config(tmp_path, "auto", image_size=4, least_crop_area=0.5)), StreamedDataset
    )
    assert "as random parts of them are cut out" in caplog.text


def test_a_truncated_file_fails_as_it_does_in_memory(tmp_path):
    buffer = io.BytesIO()
    Image.fromarray(pixels("x", (64, 64))).save(buffer, "JPEG")
    write(tmp_path / "x", *SPLIT)
    (tmp_path / "x" / "train/dog/2.jpg").write_bytes(buffer.getvalue()[:-20])
    for streaming in (True, False):
        with pytest.raises(DataError, match=r"train/dog/2.jpg cannot be read as an image"):
            load_dataset(config(tmp_path, streaming))
