"""Image files of every mode, as a network takes them."""

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.commands.predict import predict_files, read_picture
from qresnet_jax.config import default_config
from qresnet_jax.errors import UserError

GRADIENT = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4


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


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    path = save(tmp_path, Image.fromarray(GRADIENT.astype(np.uint16) * 257))
    np.testing.assert_array_equal(read_picture(path, (8, 8, 1)).pixels[..., 0], GRADIENT)


def test_a_palette_is_looked_up(tmp_path):
    red = np.zeros((8, 8, 3), np.uint8)
    red[:4, :, 0] = 255
    path = save(tmp_path, Image.fromarray(red).quantize(2))
    with Image.open(path) as stored:
        assert stored.mode == "P"
    np.testing.assert_array_equal(read_picture(path, (8, 8, 3)).pixels, red)


def test_transparent_parts_become_black(tmp_path):
    rgba = np.full((8, 8, 4), 200, np.uint8)
    rgba[..., 3] = 255
    rgba[:, 4:, 3] = 0
    pixels = read_picture(save(tmp_path, Image.fromarray(rgba)), (8, 8, 3)).pixels
    assert (pixels[:, :4] == 200).all() and (pixels[:, 4:] == 0).all()


@pytest.mark.parametrize("size", [(16, 8), (8, 16), (100, 37), (3, 9), (1, 1)])
def test_the_middle_is_cut_out_and_resized(tmp_path, size):
    picture = read_picture(save(tmp_path, Image.new("RGB", size, (10, 20, 30))), (8, 8, 3))
    assert picture.pixels.shape == (8, 8, 3)
    np.testing.assert_array_equal(picture.pixels, np.broadcast_to([10, 20, 30], (8, 8, 3)))
    assert picture.how.startswith(f"{size[0]}x{size[1]} RGB -> ")


def test_a_photograph_is_turned_as_it_was_taken(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by a quarter
    Image.fromarray(GRADIENT).save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(
        read_picture(tmp_path / "x.png", (8, 8, 1)).pixels[..., 0], np.rot90(GRADIENT, -1)
    )


def test_the_cut_is_the_middle(tmp_path):
    wide = np.zeros((8, 16, 3), np.uint8)
    wide[:, 4:12] = 255
    assert (read_picture(save(tmp_path, Image.fromarray(wide)), (8, 8, 3)).pixels == 255).all()


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n torn"])
def test_what_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match="x.png cannot be read as an image"):
        read_picture(path, (8, 8, 1))


def test_files_must_be_given_and_exist(tmp_path):
    config = default_config()
    with pytest.raises(UserError, match="config.predict.images is empty: give files"):
        predict_files(config, tmp_path)
    config.predict.images = f"{tmp_path}/missing.png"
    with pytest.raises(UserError, match="there is no file .*missing.png"):
        predict_files(config, tmp_path)
