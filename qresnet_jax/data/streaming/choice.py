"""Decides whether a set is held in memory or streamed, and says so."""

import logging
import math

from ml_collections import ConfigDict

from qresnet_jax.system.machine import memory, processors

log = logging.getLogger("qresnet_jax")

AUTO = "auto"  # what `config.data.streaming` may say beside True and False
MOST_WORKERS = 16  # processes, unless the config asks for more


def is_streamed(
    data_config: ConfigDict, images: int, shape: tuple[int | None, ...], resident_bytes: int | None
) -> bool:
    """Returns whether a set is to be streamed, and logs it with the numbers.

    With `data_config.streaming="auto"` it is if its decoded images take more than `resident_bytes`, or if they are to be
    cropped at random parts of different sizes, which only workers do.

    Args:
      data_config: the fields `name`, `streaming`, `image_size`, `least_crop_area` and `workers` are read.
      images: the number of its images.
      shape: their `(height, width, channels)`, each None if it is not known.
      resident_bytes: the bytes of pixels that may be held in memory; None: a quarter of the memory of the machine.
    """
    streaming = getattr(data_config, "streaming", AUTO)
    size = getattr(data_config, "image_size", 0)
    height, width = (size, size) if size else shape[:2]
    limit = memory() // 4 if resident_bytes is None else resident_bytes
    random_crops = getattr(data_config, "least_crop_area", 1.0) < 1
    text = f"{images:,} images of different sizes"
    needed = math.inf
    if height and width:
        needed = images * height * width * (shape[2] or 3)
        text = f"{images:,} images of {height}x{width} take {needed / 1e9:,.2f} GB decoded"
    streamed = streaming is True or (streaming == AUTO and (random_crops or needed > limit))
    if random_crops:
        why = "they are cropped to random parts"
    else:
        why = f"data.streaming={streaming}, limit {limit / 1e9:,.2f} GB"
    workers = number_of_workers(getattr(data_config, "workers", -1))
    how = f"streamed from the disk, decoded by {workers} processes" if streamed else "held in memory"
    log.info("data: %s is %s: %s (%s)", data_config.name, how, text, why)
    return streamed


def number_of_workers(workers: int) -> int:
    """Returns the number of worker processes; -1 means one less than there are processors, from 1 to `MOST_WORKERS`."""
    return workers if workers >= 0 else min(max(processors() - 1, 1), MOST_WORKERS)
