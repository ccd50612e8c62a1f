"""What becomes of image files: their colours, and the middle of them. tests/commands/test_predict.py has all formats."""

import io

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.data.pictures import PictureError, decode, fit

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
COLOURS = np.stack([GREY, 255 - GREY, GREY // 2], -1)


def stored(picture, ending="png"):
    buffer = io.BytesIO()
    picture.save(buffer, ending)
    buffer.seek(0)
    return buffer


def palette(colours):
    picture = Image.fromarray(GREY)
    picture = picture.copy()
    picture.putpalette([channel for entry in colours for channel in entry])
    return picture


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(GREY),
        Image.fromarray(GREY > 100),
        Image.fromarray(GREY.astype(np.uint16) * 257),
        Image.fromarray(np.stack([GREY, 255 - GREY], -1), "LA"),
        palette([(i, i, i) for i in range(256)]),
    ],
    ids=["8 bits", "1 bit", "16 bits", "alpha", "palette"],
)  # fmt: skip
def test_shades_of_grey_have_one_channel(picture):
    decoded, _ = decode(stored(picture))
    assert decoded.mode == "L"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(decode(stored(picture), "RGB")[0])[..., 1])


@pytest.mark.parametrize(
    "picture",
    [
        Image.fromarray(COLOURS),
        Image.fromarray(np.stack([GREY] * 3, -1)),
        Image.fromarray(COLOURS).convert("RGBA"),
        palette([(i, 255 - i, i // 2) for i in range(256)]),
    ],
    ids=["RGB", "grey RGB", "alpha", "palette"],
)
def test_everything_else_has_three(picture):
    decoded, _ = decode(stored(picture))
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(picture.convert("RGB")))


def test_the_middle_is_cut_out_and_resized():
    wide = np.zeros((8, 20), np.uint8)
    wide[:, 6:14] = 200
    picture, done = fit(Image.fromarray(wide), 4, 4)
    assert np.asarray(picture).tolist() == [[200] * 4] * 4 and done == ["middle 8x8"]
    same = Image.fromarray(GREY)
    assert fit(same, 8, 8) == (same, [])


def test_a_damaged_file_is_refused_in_a_line():
    whole = stored(Image.fromarray(COLOURS), "jpeg").getvalue()
    for content in (b"", b"text", whole[:100], whole[: len(whole) // 2]):
        with pytest.raises(PictureError, match="^cannot be read as an image .*: give a PNG") as caught:
            decode(io.BytesIO(content))
        assert "\n" not in str(caught.value)
