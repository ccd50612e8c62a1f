"""Which images a batch has, for any number of processes, and what it says of an image that cannot be used."""

import pickle

import numpy as np
import pytest

from qresnet_jax.data.order import epoch_order
from qresnet_jax.data.streaming.batches import Images, TestBatches, TrainBatches
from qresnet_jax.data.streaming.views import View
from qresnet_jax.errors import DataError
from tests.data.streaming.records_cases import encoded, smooth, write_records

COUNT, SEED, BATCH = 10, 5, 4
PIXELS = np.stack([smooth(8, 8, seed=i) for i in range(COUNT)])
LABELS = np.arange(COUNT)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    pairs = [(encoded(x), int(y)) for x, y in zip(PIXELS, LABELS, strict=True)]
    return Images(
        write_records(tmp_path_factory.mktemp("set"), pairs, shards=3), range(COUNT), View(3), (8, 8, 3)
    )


def test_an_image_of_a_run_depends_on_its_number_alone_whatever_rows_a_process_reads(images):
    whole = TrainBatches(images, SEED, BATCH, range(BATCH), 9)
    parts = [TrainBatches(images, SEED, BATCH, rows, 9) for rows in ([0], [1, 2], [3])]
    assert len(whole) == 9
    for step in reversed(range(9)):
        epoch, in_epoch = divmod(step, 3)
        order = epoch_order(SEED, epoch, COUNT)
        chosen = [order[i % COUNT] for i in range(in_epoch * BATCH, in_epoch * BATCH + BATCH)]
        np.testing.assert_array_equal(whole[step].images, PIXELS[chosen])
        np.testing.assert_array_equal(whole[step].labels, LABELS[chosen])
        np.testing.assert_array_equal(np.concatenate([part[step].images for part in parts]), PIXELS[chosen])


def test_a_test_has_every_image_once(images):
    batches = TestBatches(images, 4)
    assert [len(batches[i].labels) for i in range(len(batches))] == [4, 4, 2]
    np.testing.assert_array_equal(np.concatenate([batches[i].images for i in range(3)]), PIXELS)


def test_batches_can_be_sent_to_another_process_after_use(images):
    batches = TestBatches(images, 4)
    _ = batches[0]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(batches))[2].images, PIXELS[8:])


def test_a_random_crop_depends_on_the_seed_and_the_number_of_the_image_in_the_run(images):
    cropped = Images(images.records, images.positions, View(3, 4, 0.1), (4, 4, 3))
    whole, again = (TrainBatches(cropped, SEED, BATCH, range(BATCH), 6) for _ in range(2))
    part = TrainBatches(cropped, SEED, BATCH, [2], 6)
    np.testing.assert_array_equal(whole[4].images, again[4].images)
    np.testing.assert_array_equal(whole[4].images[2:3], part[4].images)
    other = TrainBatches(cropped, SEED + 1, BATCH, range(BATCH), 6)
    order, others = (epoch_order(seed, 0, COUNT) for seed in (SEED, SEED + 1))
    seen = {int(i): x for i, x in zip(order[:4], whole[0].images, strict=True)}
    same = [
        (seen[int(i)] == x).all() for i, x in zip(others[:4], other[0].images, strict=True) if int(i) in seen
    ]
    assert not all(same) or not same


BROKEN = {
    "cannot be decoded": (encoded(smooth(8, 8), "JPEG")[:200], 0),
    "cannot be decoded .cannot identify": (b"", 0),
    "has the label 10, expected 0 to 9": (encoded(smooth(8, 8)), 10),
    "different sizes: the first has 8x8, this one has 9x7 .*image_size": (encoded(smooth(7, 9)), 0),
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_record_that_cannot_be_used_is_named(tmp_path, message):
    pairs = [(encoded(PIXELS[0]), 0), BROKEN[message]]
    images = Images(write_records(tmp_path, pairs), range(2), View(3), (8, 8, 3))
    with pytest.raises(DataError, match=f"train-0.array_record, record 1.*{message}"):
        TestBatches(images, 2)[0]
