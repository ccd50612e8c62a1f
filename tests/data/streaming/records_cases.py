"""Tiny sets as ArrayRecord files, which TFDS has not touched."""

import io

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter
from PIL import Image
from tensorflow_datasets.proto import tf_example_pb2

from qresnet_jax.data.streaming.records import Records, example_schema


def encoded(pixels, form="PNG", **how):
    """The content of an image file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, form, **how)
    return buffer.getvalue()


def smooth(height, width, channels=3, seed=0):
    """Pixels like those of a photograph: what is near each other is alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture if channels == 3 else picture.convert("L"))
    return pixels if channels == 3 else pixels[..., None]


def example(data, label):
    """A record as TFDS writes it."""
    message = tf_example_pb2.Example()
    message.features.feature["image"].bytes_list.value.append(data)
    message.features.feature["label"].int64_list.value.append(label)
    return message.SerializeToString()


def write_records(folder, records, shards=1, classes=10):
    """Writes `(content, label)` pairs to files, one after the other."""
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for shard, part in enumerate(np.array_split(np.arange(len(records)), shards)):
        path = folder / f"train-{shard}.array_record"
        writer = ArrayRecordWriter(str(path), "group_size:1")
        for i in part:
            writer.write(example(*records[i]))
        writer.close()
        files.append((str(path), len(part)))
    return Records(tuple(files), "image", "label", classes, example_schema())
