"""Decides whether a set is held in memory or streamed, and says so."""

import logging
from collections.abc import Callable

from ml_collections import ConfigDict

from qresnet_jax.system.machine import memory, processors

log = logging.getLogger("qresnet_jax")

AUTO = "auto"  # what `config.data.streaming` may say beside True and False
MOST_WORKERS = 16  # processes, unless the config asks for more


def is_streamed(
    data_config: ConfigDict,
    count_and_shape: Callable[[], tuple[int, tuple[int | None, ...]]],
    resident_bytes: int | None,
) -> bool:
    """Returns whether a set is to be streamed, and logs it with the numbers.

    With `data_config.streaming="auto"` it is if its decoded images take more than `resident_bytes`, or if they are to be
    cropped at random parts of different sizes, which only streaming does.

    Args:
      data_config: the fields `name`, `streaming`, `image_size`, `least_crop_area` and `workers` are read.
      count_and_shape: returns the number of images, and their `(height, width, channels)`, each None if it is not known.
        It is called only if the answer depends on it.
      resident_bytes: the bytes of pixels that may be held in memory; None: a quarter of the memory of the machine.
    """
    streaming = getattr(data_config, "streaming", AUTO)
    if streaming != AUTO:
        streamed, why = bool(streaming), f"as config.data.streaming={streaming}"
    elif getattr(data_config, "least_crop_area", 1.0) < 1:
        streamed, why = True, "as random parts of them are cut out"
    else:
        images, (height, width, channels) = count_and_shape()
        if size := getattr(data_config, "image_size", 0):
            height = width = size
        limit = memory() // 4 if resident_bytes is None else resident_bytes
        if height and width:
            needed = images * height * width * (channels or 3)
            streamed = needed > limit
            why = f"{images:,} images of {width}x{height} take {needed / 1e9:,.2f} GB"
        else:
            streamed, why = True, f"{images:,} images have different sizes"
        why += f", and up to {limit / 1e9:,.2f} GB are held"
    workers = number_of_workers(getattr(data_config, "workers", -1))
    by = f"{workers} worker process{'' if workers == 1 else 'es'}" if workers else "a thread of this process"
    how = f"read from the disk and decoded by {by}" if streamed else "held in memory"
    log.info("the images of %s are %s: %s", data_config.name, how, why)
    return streamed


def number_of_workers(workers: int) -> int:
    """Returns the number of worker processes; -1 means one less than there are processors, from 1 to `MOST_WORKERS`."""
    return workers if workers >= 0 else min(max(processors() - 1, 1), MOST_WORKERS)
