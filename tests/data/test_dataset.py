"""What an image set in memory must have."""

import numpy as np
import pytest

from qresnet_jax.data import DataError, ImageDataset, Split


@pytest.mark.parametrize(
    ("names", "message"), [((), "x has no classes"), (("cat",), "x has the only class 'cat'")]
)
def test_an_image_dataset_has_at_least_two_classes(names, message):
    split = Split(np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int32))
    with pytest.raises(DataError, match=f"{message}, so there is nothing to tell apart: choose a set"):
        ImageDataset("x", split, None, split, names, np.zeros(3), np.ones(3))
