"""From files to arrays: the pixels of every file at its label, and a message for every folder that cannot be used."""

import os
import signal
import time

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.commands import COMMANDS
from qresnet_jax.config import default_config
from qresnet_jax.data import DataError, load_dataset, prepare_dataset
from qresnet_jax.data.folder import prepare
from tests.data.folder.folders import SPLIT, names, pack, pixels, write


def config(tmp_path, raw_dir=None, **changes):
    data = default_config().data
    data.update({"name": "folder", "data_dir": str(tmp_path / "data"), "holdout": 0.0, **changes})
    data.raw_dir = str(raw_dir or tmp_path / "x")
    return data


def rows(split):
    return sorted((image.tobytes(), int(label)) for image, label in zip(*split, strict=True))


def expected(*paths, **how):
    return sorted((pixels(path, **how).tobytes(), int("dog" in path)) for path in paths)


@pytest.mark.parametrize("name", ["x", "x.tar", "x.tar.gz", "x.tar.xz", "x.zip"])
def test_every_image_is_there_once_with_its_label(tmp_path, name):
    root = write(tmp_path / "x", *SPLIT)
    data = load_dataset(config(tmp_path, root if name == "x" else pack(root, tmp_path / name)))
    assert rows(data.train) == expected(*SPLIT[:6]) and rows(data.test) == expected(*SPLIT[6:])
    assert data.class_names == ("cat", "dog") and data.name == "folder" and data.validation is None
    assert data.train.images.shape == (6, 8, 8, 3) and data.train.labels.dtype == np.int32


def test_many_chunks_on_many_threads_keep_their_places(tmp_path, monkeypatch):
    paths = names("train/cat", "train/dog", "test/cat", "test/dog", count=40)
    monkeypatch.setattr(prepare, "CHUNK_FILES", 3)
    monkeypatch.setattr(prepare, "processors", lambda: 8)
    data = load_dataset(config(write(tmp_path / "x", *paths).parent, holdout=0.25))
    both = [np.concatenate(pair) for pair in zip(data.train, data.validation, strict=True)]
    assert rows(both) == expected(*paths[:80]) and rows(data.test) == expected(*paths[80:])
    assert len(data.validation.labels) == 20 and len(set(data.validation.labels.tolist())) == 2


def test_it_is_prepared_once_and_again_when_the_folder_changes(tmp_path, caplog, monkeypatch):
    caplog.set_level("INFO", logger="qresnet_jax")
    cfg = config(write(tmp_path / "x", *names("cat", "dog")).parent)
    first = prepare_dataset(cfg)
    assert first.parent == tmp_path / "data" / "folder" and first.name.startswith("x-")
    assert "every tenth image of each class" in caplog.text
    with monkeypatch.context() as patch:
        patch.setattr(prepare, "decode_all", None)
        assert prepare_dataset(cfg) == first
        assert caplog.text.count("every tenth image of each class") == 2
    write(tmp_path / "x", "cat/new.png")
    assert prepare_dataset(cfg) != first
    assert prepare_dataset(config(tmp_path, image_size=4)) not in (first, prepare_dataset(cfg))


def test_the_command_prepares_a_folder(tmp_path, caplog):
    caplog.set_level("INFO", logger="qresnet_jax")
    write(tmp_path / "x", *SPLIT)
    whole = default_config()
    whole.data = config(tmp_path)
    COMMANDS["prepare_data"](whole, tmp_path / "run")
    assert (
        f"the data set is ready in {tmp_path}/data/folder/x-" in caplog.text
        and not (tmp_path / "run").exists()
    )


def test_an_interruption_leaves_nothing_and_the_same_call_succeeds(tmp_path, monkeypatch):
    cfg = config(write(tmp_path / "x", *SPLIT).parent)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(prepare.Pixels, "put", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        prepare_dataset(cfg)
    assert list((tmp_path / "data" / "folder").iterdir()) == []
    assert len(load_dataset(cfg).test.labels) == 4


def test_two_runs_may_prepare_at_the_same_time(tmp_path, monkeypatch):
    cfg = config(write(tmp_path / "x", *SPLIT).parent)
    decode_all = prepare.decode_all

    def slower(*args):
        monkeypatch.setattr(prepare, "decode_all", decode_all)
        prepare_dataset(cfg)  # the other run
        return decode_all(*args)

    monkeypatch.setattr(prepare, "decode_all", slower)
    assert list((tmp_path / "data/folder").glob("*")) == [] and prepare_dataset(cfg).is_dir()
    assert len(list((tmp_path / "data" / "folder").iterdir())) == 1


def test_a_damaged_preparation_is_named(tmp_path):
    cfg = config(write(tmp_path / "x", *SPLIT).parent)
    directory = prepare_dataset(cfg)
    for name in ("images.npy", "labels.npy", "about.json"):
        content = (directory / name).read_bytes()
        (directory / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(
            DataError, match=r"x-\w+ is damaged .*: delete it, and the folder is prepared again"
        ):
            load_dataset(cfg)
        (directory / name).write_bytes(content)
    assert len(load_dataset(cfg).test.labels) == 4


# ---- Sizes and colours -----------------------------------------------------------------------------------------


def test_grey_images_have_one_channel_and_colours_anywhere_make_it_three(tmp_path):
    root = write(tmp_path / "x", *SPLIT, channels=1)
    grey = load_dataset(config(tmp_path))
    assert grey.train.images.shape == (6, 8, 8, 1) and rows(grey.test) == expected(*SPLIT[6:], channels=1)
    write(root, SPLIT[-1])
    mixed = load_dataset(config(tmp_path))
    assert mixed.train.images.shape == (6, 8, 8, 3) and mixed.test.images.shape == (4, 8, 8, 3)
    wide = [np.repeat(pixels(path, channels=1)[..., None], 3, -1).tobytes() for path in SPLIT[:6]]
    assert sorted(image for image, _ in rows(mixed.train)) == sorted(wide)
    assert pixels(SPLIT[-1]).tobytes() in {image for image, _ in rows(mixed.test)}


def test_different_sizes_are_refused_with_both_of_them(tmp_path):
    write(tmp_path / "x", *SPLIT)
    write(tmp_path / "x", "train/dog/9.png", size=(8, 12))
    message = r"x: images have different sizes: \S+png has 8x8, train/dog/9.png has 12x8 \(width x height\). Set config.data.image_size"
    with pytest.raises(DataError, match=message):
        load_dataset(config(tmp_path))
    assert list((tmp_path / "data" / "folder").iterdir()) == []


def test_image_size_resizes_the_middle_square(tmp_path, caplog):
    caplog.set_level("INFO", logger="qresnet_jax")
    write(tmp_path / "x", *SPLIT)
    write(tmp_path / "x", "train/dog/9.png", size=(8, 12))
    data = load_dataset(config(tmp_path, image_size=8))
    assert pixels("train/dog/9.png", (8, 12))[:, 2:10].tobytes() in {image for image, _ in rows(data.train)}
    assert "images whose middle square is resized to 8x8: 1" in caplog.text
    small = load_dataset(config(tmp_path, image_size=4)).test.images
    wanted = [
        np.asarray(Image.fromarray(pixels(path)).resize((4, 4), Image.Resampling.LANCZOS))
        for path in SPLIT[6:]
    ]
    assert sorted(x.tobytes() for x in small) == sorted(x.tobytes() for x in wanted)


def test_more_than_the_memory_is_refused_at_the_first_image(tmp_path, monkeypatch):
    write(tmp_path / "x", *SPLIT)
    monkeypatch.setattr(prepare.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096}.get(name, 0))
    with pytest.raises(
        DataError,
        match=r"10 images of 8x8x1 take 0.0 GB, more than the memory of this machine.*streaming=True",
    ):
        load_dataset(config(tmp_path, streaming=False))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_formats_are_read_as_pillow_does(tmp_path, ending):
    paths = names("cat", "dog", count=2, ending=ending)
    write(tmp_path / "x", *paths)
    data = load_dataset(config(tmp_path))
    found = {image.tobytes() for image in (*data.train.images, *data.test.images)}
    assert found == {np.asarray(Image.open(tmp_path / "x" / path).convert("RGB")).tobytes() for path in paths}


def test_a_photograph_is_turned_before_its_size_counts(tmp_path):
    write(tmp_path / "x", *names("cat", "dog"), size=(8, 12))
    exif = Image.Exif()
    exif[0x0112] = 6
    lying = pixels("lying", (12, 8))
    Image.fromarray(lying).save(tmp_path / "x/dog/9.png", exif=exif)
    data = load_dataset(config(tmp_path))
    everything = {image.tobytes() for image in (*data.train.images, *data.test.images)}
    assert np.rot90(lying, -1).tobytes() in everything


# ---- Broken files -----------------------------------------------------------------------------------------------


@pytest.fixture
def broken(tmp_path):
    """A folder with two broken files."""
    root = write(tmp_path / "x", *SPLIT, *names("train/dog", count=8))
    (root / "train/dog/0.png").write_bytes(b"")
    whole = (root / "train/dog/7.png").read_bytes()
    (root / "train/dog/7.png").write_bytes(whole[:60])
    return root


@pytest.mark.parametrize("archive", ["", "x.zip"])
def test_a_broken_file_is_named(broken, tmp_path, archive):
    raw = pack(broken, tmp_path / archive) if archive else broken
    message = r"train/dog/0.png cannot be read as an image .*skip_broken=True"
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(config(tmp_path, raw))
    assert "\n" not in str(caught.value)


def test_broken_files_are_skipped_and_counted(broken, tmp_path, caplog):
    caplog.set_level("INFO", logger="qresnet_jax")
    data = load_dataset(config(tmp_path, skip_broken=True))
    assert "files that cannot be decoded and are skipped: 2, such as train/dog/0.png" in caplog.text
    kept = [*names("train/cat"), *(f"train/dog/{i}.png" for i in range(1, 7))]
    assert rows(data.train) == expected(*kept) and rows(data.test) == expected(*SPLIT[6:])


@pytest.mark.parametrize(("part", "where"), [("test", "in test"), ("train/dog", "of class 'dog' in train")])
def test_what_has_no_whole_file_left_is_refused(tmp_path, part, where):
    root = write(tmp_path / "x", *SPLIT)
    for file in (root / part).rglob("*.png"):
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=f"x: no image {where} can be decoded"):
        load_dataset(config(tmp_path, skip_broken=True))


def test_a_place_that_cannot_be_written_is_refused_before_anything_is_decoded(tmp_path, monkeypatch):
    cfg = config(write(tmp_path / "x", *SPLIT).parent)
    (tmp_path / "data").write_text("a file")
    monkeypatch.setattr(prepare, "_prepare", None)
    with pytest.raises(
        DataError, match="could not be prepared in .*is a file, not a directory.* choose another"
    ):
        prepare_dataset(cfg)


def test_digits_take_no_image_size(tmp_path):
    with pytest.raises(DataError, match=r"image_size=16: the images of digits are not resized: set it to 0"):
        load_dataset(config(tmp_path, name="digits", image_size=16))


@pytest.mark.parametrize(
    ("mode", "number", "status"),
    [
        ("prepare_data", signal.SIGTERM, 143),
        ("prepare_data", signal.SIGINT, 130),
        ("train", signal.SIGTERM, 0),
        ("train", signal.SIGINT, 0),
    ],
)
def test_a_signal_ends_the_decoding_of_a_large_folder_and_nothing_is_left(
    start_main, tmp_path, mode, number, status
):
    if (mode, number) == ("prepare_data", signal.SIGINT) and signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("in the background of a script Ctrl-C is ignored, also by the command")
    first = tmp_path / "x" / "cat" / "0.jpg"
    for name in ("cat", "dog"):
        (tmp_path / "x" / name).mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    Image.fromarray(noise).save(first)
    for i in range(1, 10_000):  # minutes of decoding
        os.link(first, tmp_path / "x" / ("cat", "dog")[i % 2] / f"{i}.jpg")
    fields = {"raw_dir": tmp_path / "x", "data_dir": tmp_path / "data"}
    process = start_main(
        "--config=folder",
        f"--mode={mode}",
        f"--workdir={tmp_path}/run",
        *(f"--config.data.{name}={value}" for name, value in fields.items()),
    )
    prepared = tmp_path / "data" / "folder"
    deadline = time.monotonic() + 300
    while not (prepared.exists() and any(prepared.iterdir())):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status and "Traceback" not in errors, errors
    assert not any(prepared.iterdir())
