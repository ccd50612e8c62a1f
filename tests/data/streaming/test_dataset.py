"""A set that stays on the disk: its means, which are kept, and its parts."""

import numpy as np
import pytest

from qresnet_jax.data.dataset import channel_counts, channel_statistics
from qresnet_jax.data.streaming import dataset
from qresnet_jax.data.streaming.batches import Images
from qresnet_jax.data.streaming.dataset import StreamedDataset, StreamedSplit
from qresnet_jax.data.streaming.views import View
from tests.data.streaming.records_cases import encoded, smooth, write_records

PIXELS = np.stack([smooth(8, 8, seed=i) for i in range(70)])


@pytest.fixture
def make_set(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    records = write_records(tmp_path / "set", [(encoded(x), i % 10) for i, x in enumerate(PIXELS)])
    split = StreamedSplit(Images(records, range(70), View(3), (8, 8, 3)), 0)
    return lambda: StreamedDataset("set", tuple("0123456789"), split, split, None, "stamp")


def mean_of(images):
    return channel_statistics(channel_counts(images))[0]


def test_means_are_those_of_the_images_and_computed_once_for_all_runs(make_set, monkeypatch):
    np.testing.assert_array_equal(make_set().mean, mean_of(PIXELS))
    monkeypatch.setattr(StreamedDataset, "_mean", None)
    again = make_set()
    np.testing.assert_array_equal(again.mean, mean_of(PIXELS))
    assert again.mean.dtype == np.float64


def test_of_a_large_set_the_first_images_give_the_means(make_set, monkeypatch):
    monkeypatch.setattr(dataset, "MEAN_PIXELS", 5 * 64 + 1)
    np.testing.assert_array_equal(make_set().mean, mean_of(PIXELS[:5]))


def test_without_a_cache_means_are_computed_each_time(make_set, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null/none")
    np.testing.assert_array_equal(make_set().mean, mean_of(PIXELS))


def test_the_parts_of_a_split_are_all_of_its_images_once(make_set, monkeypatch):
    monkeypatch.setattr(dataset, "TEST_BATCH", 16)
    parts = list(make_set().test.parts())
    assert [len(part.labels) for part in parts] == [16, 16, 16, 16, 6]
    np.testing.assert_array_equal(np.concatenate([part.images for part in parts]), PIXELS)
    np.testing.assert_array_equal(make_set().test.first(3), PIXELS[:3])
