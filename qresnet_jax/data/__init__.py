"""Image sets as uint8 arrays in memory: the published archives, TFDS directories made from them, and splits."""

from qresnet_jax.data.dataset import ImageDataset, Split
from qresnet_jax.data.sets import load_dataset, prepare_dataset
from qresnet_jax.errors import DataError

__all__ = ["DataError", "ImageDataset", "Split", "load_dataset", "prepare_dataset"]
