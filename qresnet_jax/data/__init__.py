"""Loads image sets as uint8 pixels, in memory or streamed: the published archives, TFDS directories made from them, folders, and splits."""

from qresnet_jax.data.dataset import ARRAYS, FOLDER, ImageDataset, Split, check_dataset
from qresnet_jax.data.sets import load_dataset, prepare_dataset, take_dataset
from qresnet_jax.data.streaming.dataset import StreamedDataset, StreamedSplit
from qresnet_jax.errors import DataError

__all__ = [
    "ARRAYS",
    "FOLDER",
    "DataError",
    "ImageDataset",
    "Split",
    "StreamedDataset",
    "StreamedSplit",
    "check_dataset",
    "load_dataset",
    "prepare_dataset",
    "take_dataset",
]
