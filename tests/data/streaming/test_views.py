"""What training and tests see of an image: its middle, or a random part whose area and shape are in their ranges."""

import io
import math

import numpy as np
import pytest
from PIL import Image

from qresnet_jax.data.pictures import fit
from qresnet_jax.data.streaming import views
from qresnet_jax.data.streaming.views import View, random_box
from tests.data.streaming.records_cases import encoded, smooth


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (40, 400), (1, 1), (3, 1000)])
@pytest.mark.parametrize("least", [0.08, 0.5, 0.99])
def test_random_parts_lie_inside_and_have_the_areas_and_ratios_asked_for(size, least):
    height, width = size
    rng, boxes = np.random.RandomState(0), []
    for _ in range(300):
        left, top, w, h = random_box(rng, height, width, least)
        assert left >= 0 and left + w <= width and top >= 0 and top + h <= height and min(w, h) > 0
        boxes.append((w, h))
    if size in ((375, 500), (500, 375)):
        areas = np.array([w * h / (height * width) for w, h in boxes])
        ratios = np.array([w / h for w, h in boxes])
        assert least - 0.01 < areas.min() and areas.max() <= 1
        assert ratios.min() > 0.74 and ratios.max() < 1.35
        if least == 0.08:
            assert areas.min() < 0.15 and areas.max() > 0.85 and abs(np.log(ratios).mean()) < 0.05


def test_a_part_depends_on_the_seed_and_the_number_of_the_image_alone():
    view, data = View(3, 24, 0.1), encoded(smooth(60, 80), "JPEG")
    seen = {key: view.of_training(data, *key).tobytes() for key in [(0, 1), (0, 2), (1, 1), (0, 2**32 + 1)]}
    assert len(set(seen.values())) == 4
    assert all(view.of_training(data, *key).tobytes() == pixels for key, pixels in seen.items())


def test_the_random_part_of_an_image_never_changes():
    """NumPy promises that the numbers of this generator stay; runs that continue rely on it."""
    assert random_box(np.random.RandomState([0, 5, 0]), 375, 500, 0.08) == BOX


BOX = (15, 31, 314, 339)


def test_without_random_parts_training_and_tests_see_the_middle_square():
    pixels = smooth(60, 80)
    data = encoded(pixels)
    expected = np.asarray(fit(Image.fromarray(pixels), 24, 24)[0])
    np.testing.assert_array_equal(View(3, 24).of_test(data), expected)
    np.testing.assert_array_equal(View(3, 24).of_training(data, 0, 1), expected)
    np.testing.assert_array_equal(View(3).of_training(data, 0, 1), pixels)


def test_with_random_parts_a_test_sees_the_middle_at_224_of_256_of_the_short_side():
    pixels = smooth(256, 320)
    seen = View(3, 224, 0.08).of_test(encoded(pixels))
    np.testing.assert_array_equal(seen, pixels[16:240, 48:272])  # nothing is resized here


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_file_decoded_to_a_fraction_shows_nearly_the_same(channels, monkeypatch):
    picture = Image.fromarray(smooth(101, 151, channels).squeeze()).resize(
        (1201, 803), Image.Resampling.BICUBIC
    )
    data = encoded(np.asarray(picture).reshape(803, 1201, channels), "JPEG", quality=95)
    view = View(channels, 64, 0.3)
    fast = [view.of_training(data, 0, i) for i in range(8)] + [view.of_test(data)]
    monkeypatch.setattr(views, "REDUCTIONS", (1,))
    whole = [view.of_training(data, 0, i) for i in range(8)] + [view.of_test(data)]
    for one, other in zip(fast, whole, strict=True):
        assert one.shape == (64, 64, channels) and one.dtype == np.uint8
        assert np.abs(one.astype(int) - other).mean() < 1


def test_turned_photographs_are_seen_as_they_are_stored_as_tfds_does():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(smooth(20, 30)).save(buffer, "JPEG", exif=exif)
    assert View(3).of_test(buffer.getvalue()).shape == (20, 30, 3)


def test_the_largest_part_with_an_allowed_ratio_is_taken_where_random_ones_do_not_fit():
    left, top, w, h = random_box(np.random.RandomState(0), 10, 1000, 0.99)
    assert (left, top, w, h) == ((1000 - w) // 2, 0, 13, 10) and math.isclose(w / h, 4 / 3, abs_tol=0.04)
