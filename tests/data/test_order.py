"""The order of the training images."""

import numpy as np
import pytest

from qresnet_jax.data.order import epoch_order


@pytest.mark.parametrize("num_images", [1, 2, 101])
def test_an_epochs_order_is_a_permutation(num_images):
    order = epoch_order(7, 3, num_images)
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(num_images))


def test_the_order_depends_on_seed_and_epoch_only():
    def order(seed, epoch):
        return tuple(epoch_order(seed, epoch, 50))

    assert order(0, 1) == order(0, 1)
    assert len({order(seed, epoch) for seed in range(2) for epoch in range(3)}) == 6


def test_the_order_of_a_seed_never_changes():
    assert epoch_order(1, 2, 10).tolist() == [6, 5, 4, 2, 1, 9, 0, 3, 8, 7]
    assert epoch_order(2**32 - 1, 2**31 - 1, 3).tolist() == [2, 1, 0]
