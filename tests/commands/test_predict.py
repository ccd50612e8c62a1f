"""Image files of every mode, as a network takes them."""

import dataclasses
import functools
import io
import warnings

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.commands.predict import predict_files, read_picture
from qresnet_jax.config import default_config
from qresnet_jax.errors import UserError
from qresnet_jax.ship.load import find_packed, load_packed
from qresnet_jax.ship.packed.file import read_packed, save_packed

GRADIENT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOURS = np.stack([GRADIENT, 255 - GRADIENT, GRADIENT // 2], -1)


def save(tmp_path, picture, name="picture.png"):
    path = tmp_path / name
    picture.save(path)
    return path


def test_a_grey_picture_of_the_right_size_is_taken_as_it_is(tmp_path):
    picture = read_picture(save(tmp_path, Image.fromarray(GRADIENT)), (8, 8, 1))
    np.testing.assert_array_equal(picture.pixels[..., 0], GRADIENT)
    assert picture.how == "8x8 L -> 8x8 L"


def test_grey_becomes_three_equal_channels(tmp_path):
    pixels = read_picture(save(tmp_path, Image.fromarray(GRADIENT)), (8, 8, 3)).pixels
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], GRADIENT)


@pytest.mark.parametrize(
    ("ending", "dtype", "factor"),
    [
        (".png", "uint16", 257),
        (".tif", "uint16", 257),
        (".pgm", "uint16", 257),
        (".jp2", "uint16", 257),
        (".tif", "int32", 1),
        (".tif", "int32", 257),
        (".tif", "float32", 1 / 255),
        (".tif", "float32", 1),
        (".tif", "float32", 257),
        (".pfm", "float32", 1 / 255),
    ],
)
def test_more_bits_are_scaled_to_eight(tmp_path, ending, dtype, factor):
    path = save(tmp_path, Image.fromarray((GRADIENT * np.float64(factor)).astype(dtype)), f"x{ending}")
    np.testing.assert_array_equal(read_picture(path, (8, 8, 1)).pixels[..., 0], GRADIENT)
    with_alpha = read_picture(path, (8, 8, 4)).pixels
    np.testing.assert_array_equal(with_alpha, np.stack([GRADIENT] * 3 + [np.full((8, 8), 255)], -1))


def test_sixteen_bits_stay_dark_where_the_file_says_how_many_there_are(tmp_path):
    dark = GRADIENT.astype(np.uint16)
    assert read_picture(save(tmp_path, Image.fromarray(dark)), (8, 8, 1)).pixels.max() == 1


@pytest.mark.parametrize(
    ("dtype", "value", "shown"),
    [
        ("float32", np.nan, "nan"),
        ("float32", np.inf, "inf"),
        ("float32", -np.inf, "-inf"),
        ("float32", -0.5, "-0.5"),
        ("float32", 1e6, r"1e\+06"),
        ("int32", 65793, "65793"),
        ("int32", -1, "-1"),
    ],
)
def test_a_value_that_is_no_brightness_is_refused_with_its_place(tmp_path, dtype, value, shown):
    values = (GRADIENT / 255 if dtype == "float32" else GRADIENT).astype(dtype)
    values[2, 5] = values[6, 1] = value
    path = save(tmp_path, Image.fromarray(values), "x.tif")
    with pytest.raises(
        UserError, match=f"x.tif has the value {shown} in row 2, column 5 .counted from 0.,"
    ) as caught:
        read_picture(path, (8, 8, 1))
    assert "\n" not in str(caught.value)


def test_one_bit_is_black_or_white(tmp_path):
    for name in ("x.png", "x.tif", "x.pbm"):
        path = save(tmp_path, Image.fromarray(GRADIENT > 100), name)
        np.testing.assert_array_equal(
            read_picture(path, (8, 8, 1)).pixels[..., 0], np.where(GRADIENT > 100, 255, 0)
        )


@pytest.mark.parametrize(("mode", "tolerance"), [("CMYK", 0), ("YCbCr", 4), ("LAB", 64)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_other_colours_become_those_of_the_network(tmp_path, mode, tolerance, channels):
    picture = Image.new("LAB", (8, 8)) if mode == "LAB" else Image.fromarray(COLOURS).convert(mode)
    pixels = read_picture(save(tmp_path, picture, "x.tif"), (8, 8, channels)).pixels
    if mode != "LAB":
        expected = Image.fromarray(COLOURS).convert({1: "L", 3: "RGB", 4: "RGBA"}[channels])
        expected = np.asarray(expected, int).reshape(8, 8, channels)
        assert np.abs(expected - pixels).max() <= tolerance
    assert channels < 4 or (pixels[..., 3] == 255).all()


def test_a_palette_is_looked_up(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[:4, :, 0] = 255
    path = save(tmp_path, Image.fromarray(red).quantize(2))
    with Image.open(path) as stored:
        assert stored.mode == "P"
    np.testing.assert_array_equal(read_picture(path, (8, 8, 3)).pixels, red)


TRANSPARENT = np.where(np.arange(8) < 4, 255, 0).astype(np.uint8) * np.ones((8, 1), np.uint8)


def with_transparent_half(mode):
    """A picture whose right half is transparent, and the options to save it with."""
    grey = np.full((8, 8), 200, np.uint8)
    alpha = Image.fromarray(TRANSPARENT)
    if mode in ("LA", "RGBA"):
        return Image.merge(mode, [*[Image.fromarray(grey)] * (len(mode) - 1), alpha]), {}
    grey[:, 4:] = 7
    if mode == "I;16":
        return Image.fromarray(grey.astype(np.uint16) * 257), {"transparency": 7 * 257}
    if mode == "RGB":
        return Image.fromarray(np.stack([grey] * 3, -1)), {"transparency": (7, 7, 7)}
    picture = Image.fromarray(grey)
    return (picture.convert("P") if mode == "P" else picture), {"transparency": 7}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "RGB", "L", "P", "I;16"])
def test_transparent_parts_become_black_and_a_network_of_four_channels_sees_them(tmp_path, mode):
    picture, options = with_transparent_half(mode)
    picture.save(tmp_path / "x.png", **options)
    with Image.open(tmp_path / "x.png") as stored:
        assert stored.mode == mode
    for channels in (1, 3):
        pixels = read_picture(tmp_path / "x.png", (8, 8, channels)).pixels
        assert (pixels[:, :4] == 200).all() and (pixels[:, 4:] == 0).all()
    pixels = read_picture(tmp_path / "x.png", (8, 8, 4)).pixels
    np.testing.assert_array_equal(pixels[..., 3], TRANSPARENT)
    assert (pixels[:, :4, :3] == 200).all()


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp", ".tif"])
def test_the_first_of_several_frames_is_taken_and_said_so(tmp_path, ending):
    frames = [Image.fromarray(pixels) for pixels in (GRADIENT, 255 - GRADIENT, 255 - GRADIENT)]
    frames = [frame.convert("RGB") for frame in frames] if ending == ".webp" else frames
    options = {"lossless": True} if ending == ".webp" else {}
    frames[0].save(tmp_path / f"x{ending}", save_all=True, append_images=frames[1:2], **options)
    picture = read_picture(tmp_path / f"x{ending}", (8, 8, 1))
    np.testing.assert_array_equal(picture.pixels[..., 0], GRADIENT)
    assert ", the first of 2 frames -> " in picture.how


@pytest.mark.parametrize("size", [(16, 8), (8, 16), (100, 37), (3, 9), (1, 1)])
def test_the_middle_is_cut_out_and_resized(tmp_path, size):
    picture = read_picture(save(tmp_path, Image.new("RGB", size, (10, 20, 30))), (8, 8, 3))
    assert picture.pixels.shape == (8, 8, 3)
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to([10, 20, 30], (8, 8, 3)))
    assert picture.how.startswith(f"{size[0]}x{size[1]} RGB -> ")


@pytest.mark.parametrize("ending", [".png", ".tif", ".webp"])
@pytest.mark.parametrize(
    ("orientation", "turned"),
    [(3, lambda x: x[::-1, ::-1]), (5, lambda x: x.T), (6, lambda x: np.rot90(x, -1)), (8, np.rot90)],
)
def test_a_photograph_is_turned_as_it_was_taken(tmp_path, ending, orientation, turned):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if ending == ".webp" else {}
    Image.fromarray(GRADIENT[:6]).save(tmp_path / f"x{ending}", exif=exif, **options)
    shape = (6, 8, 1) if orientation == 3 else (8, 6, 1)
    picture = read_picture(tmp_path / f"x{ending}", shape)
    np.testing.assert_array_equal(picture.pixels[..., 0], turned(GRADIENT[:6]))


def test_the_cut_is_the_middle(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 255
    assert (read_picture(save(tmp_path, Image.fromarray(wide)), (8, 8, 3)).pixels == 255).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n torn"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(
        UserError, match="x.png cannot be read as an image .of no format that is known.: give"
    ):
        read_picture(path, (8, 8, 1))


@pytest.mark.parametrize(
    "ending", ["png", "jpeg", "gif", "tiff", "webp", "bmp", "ppm", "jpeg2000", "avif", "tga", "ico"]
)
def test_a_truncated_file_is_refused_in_a_line(tmp_path, ending):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(buffer, ending)
    whole = buffer.getvalue()
    for share in (0.1, 0.5, 0.99):
        (tmp_path / "x").write_bytes(whole[: int(share * len(whole))])
        with (
            warnings.catch_warnings(action="error"),
            pytest.raises(UserError, match="x cannot be read as an image") as caught,
        ):
            read_picture(tmp_path / "x", (8, 8, 3))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("channels", [2, 5])
def test_a_network_of_other_channels_is_refused_with_what_it_takes(tmp_path, channels):
    path = save(tmp_path, Image.fromarray(GRADIENT))
    with pytest.raises(
        UserError, match=f"takes images of 8x8x{channels}, with {channels} channels, but image files give"
    ):
        read_picture(path, (8, 8, channels))


@pytest.fixture
def quick_engine(monkeypatch):
    """Predicts with the engine that compiles nothing."""
    engine = functools.partial(load_packed, engine="numpy")
    monkeypatch.setattr("qresnet_jax.commands.predict.load_packed", engine)


def test_a_packed_file_of_four_channels_takes_rgba(tmp_path, quick_engine):
    network = read_packed(find_packed("digits_resnet8_w1a2"))
    stem = network.nodes[0]
    weights = np.concatenate([np.zeros_like(stem.weights)] * 3 + [stem.weights], 2)  # of alpha only
    stem = dataclasses.replace(stem, weights=weights, double_mean=np.repeat(stem.double_mean, 4))
    save_packed(dataclasses.replace(network, nodes=(stem, *network.nodes[1:])), tmp_path / "x.safetensors")
    save(
        tmp_path, Image.merge("RGBA", [Image.new("L", (8, 8))] * 3 + [Image.fromarray(GRADIENT)]), "rgba.png"
    )
    save(tmp_path, Image.fromarray(GRADIENT), "grey.png")
    config = default_config()
    config.packed, config.predict.images = str(tmp_path / "x.safetensors"), str(tmp_path / "rgba.png")
    (of_alpha,) = predict_files(config, tmp_path)
    config.packed, config.predict.images = "digits_resnet8_w1a2", str(tmp_path / "grey.png")
    assert predict_files(config, tmp_path) == [of_alpha]


def test_the_name_of_a_class_cannot_command_the_terminal(tmp_path, caplog, quick_engine):
    network = read_packed(find_packed("digits_resnet8_w1a2"))
    bias = network.classifier.bias.copy()
    bias[:2] += 2**24, 2**23  # so that these are the most probable classes
    last = dataclasses.replace(network.classifier, bias=bias)
    names = ("\x1b[31mred\n", "größer 0", *"23456789")
    network = dataclasses.replace(network, nodes=(*network.nodes[:-1], last), class_names=names)
    save_packed(network, tmp_path / "x.safetensors")
    save(tmp_path, Image.fromarray(GRADIENT), "grey.png")
    config = default_config()
    config.packed, config.predict.images = str(tmp_path / "x.safetensors"), str(tmp_path / "grey.png")
    with caplog.at_level("INFO", "qresnet_jax"):
        (best,) = predict_files(config, tmp_path)
    assert [name for name, _ in best[:2]] == list(names[:2])
    assert "\\x1b[31mred\\n 100.0%, größer 0" in caplog.text and "\x1b" not in caplog.text


def test_many_images_are_classified_in_batches_with_equal_results(tmp_path, monkeypatch, quick_engine):
    for i in range(5):
        save(tmp_path, Image.fromarray(np.roll(GRADIENT, i)), f"{i}.png")
    config = default_config()
    config.packed, config.predict.images = "digits_resnet8_w1a2", (str(tmp_path),)
    at_once = predict_files(config, tmp_path)
    monkeypatch.setattr("qresnet_jax.commands.predict.BATCH", 2)
    assert predict_files(config, tmp_path) == at_once and len(at_once) == 5


def test_files_must_be_given_and_exist(tmp_path):
    config = default_config()
    with pytest.raises(UserError, match="config.predict.images is empty: give files"):
        predict_files(config, tmp_path)
    config.predict.images = f"{tmp_path}/missing.png"
    with pytest.raises(UserError, match="there is no file or directory .*missing.png"):
        predict_files(config, tmp_path)
