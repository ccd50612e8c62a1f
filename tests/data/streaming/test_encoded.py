"""The fast decoder against Pillow, pixel by pixel."""

import io

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.data.streaming.encoded import REDUCTIONS, decode, size_of
from tests.data.streaming.records_cases import encoded, smooth


def by_pillow(data, mode, reduction=1):
    with Image.open(io.BytesIO(data)) as picture:
        picture.draft(None, (max(picture.width // reduction, 1), max(picture.height // reduction, 1)))
        pixels = np.asarray(picture.convert(mode))
    return pixels if pixels.ndim == 3 else pixels[..., None]


@pytest.mark.parametrize("size", [(375, 500), (33, 47), (8, 8), (1, 1)])
@pytest.mark.parametrize("how", [{"subsampling": n} for n in range(3)] + [{"progressive": True}])
def test_jpeg_files_have_the_pixels_of_pillow_at_every_reduction(size, how):
    colours, grey = encoded(smooth(*size), "JPEG", **how), encoded(smooth(*size, 1), "JPEG")
    for reduction in REDUCTIONS:
        np.testing.assert_array_equal(decode(colours, 3, reduction), by_pillow(colours, "RGB", reduction))
        np.testing.assert_array_equal(decode(grey, 1, reduction), by_pillow(grey, "L", reduction))
        np.testing.assert_array_equal(decode(grey, 3, reduction), by_pillow(grey, "RGB", reduction))
    np.testing.assert_array_equal(decode(colours, 1), by_pillow(colours, "L"))
    assert decode(colours).shape == (*size, 3) and decode(grey).shape == (*size, 1)
    assert size_of(colours) == (*size, 3) and size_of(grey) == (*size, 1)


@pytest.mark.parametrize("form", ["PNG", "WEBP", "BMP", "GIF"])
def test_other_formats_are_pillows(form):
    data = encoded(smooth(9, 14), form)
    np.testing.assert_array_equal(decode(data, 3, 2), by_pillow(data, "RGB"))
    assert size_of(data) == (9, 14, 3)


def test_a_printers_jpeg_file_has_the_colours_of_pillow():
    buffer = io.BytesIO()
    Image.fromarray(smooth(20, 30)).convert("CMYK").save(buffer, "JPEG")
    np.testing.assert_array_equal(decode(buffer.getvalue(), 3), by_pillow(buffer.getvalue(), "RGB"))


@pytest.mark.parametrize("length", [0, 3, 50, 500])
def test_a_file_that_is_cut_is_refused(length):
    data = encoded(smooth(99, 99), "JPEG")[:length]
    with pytest.raises(Exception):  # noqa: B017  # of many types
        decode(data, 3)
