"""Small sets, for the tests of this folder."""

import pytest

from qresnet_jax.data import prepare_dataset
from tests.data.set_cases import config, write_mnist


@pytest.fixture
def mnist(tmp_path):
    """Config of a small prepared MNIST, its directory and its arrays."""
    arrays = write_mnist(tmp_path / "raw")
    cfg = config("mnist", tmp_path / "data", tmp_path / "raw")
    return cfg, prepare_dataset(cfg), arrays
