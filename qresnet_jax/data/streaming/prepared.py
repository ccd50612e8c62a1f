"""Opens sets that TFDS or our builders have prepared as ArrayRecord files, without reading their images."""

import logging
import pathlib
from collections.abc import Iterator

import numpy as np

from qresnet_jax.data.dataset import shuffled
from qresnet_jax.data.prepared import Description, held_out_split, kept_for_test, uneven
from qresnet_jax.data.streaming.batches import Images, Numbers
from qresnet_jax.data.streaming.dataset import Opened
from qresnet_jax.data.streaming.encoded import size_of
from qresnet_jax.data.streaming.records import Record, Records, example_schema
from qresnet_jax.data.streaming.views import View
from qresnet_jax.errors import DataError

log = logging.getLogger("qresnet_jax")

_LOOKED_AT = 1000  # images of a split, to find out their sizes


def open_prepared(directory: pathlib.Path, about: Description, image_size: int, least_area: float) -> Opened:
    """Opens a set.

    Args:
      directory: DATA_DIR/NAME/[CONFIG/]VERSION.
      about: its description.
      image_size, least_area: see `View`.

    Returns:
      The set, with the same images in the same order as `prepared.read` returns them.

    Raises:
      DataError: the set is damaged, or its images have different sizes and `image_size` is 0.
    """
    records = records_of(about, "train")
    positions: Numbers = range(len(records))
    if about.info.disable_shuffling:
        log.info("%s was prepared without shuffling: its train split is shuffled now", about.info.full_name)
        positions = shuffled(len(records))
    held_out = held_out_split(about)
    shape = _shape(
        directory, about, [records, *([records_of(about, held_out)] if held_out else [])], image_size
    )
    view = View(shape[-1], image_size, least_area)
    if held_out:
        tested = records_of(about, held_out)
        train, test = Images(records, positions, view, shape), Images(tested, range(len(tested)), view, shape)
    else:
        log.info("%s: reading the labels of all images", directory)
        labels = np.array([record.label for record in _all(records, positions)], np.int32)
        in_test = kept_for_test(labels, about, directory)
        train, test = (
            Images(records, np.asarray(positions)[part], view, shape) for part in (~in_test, in_test)
        )
    stamp = (
        f"{about.info.full_name}\0{[files for split in (train, test) for files in _stamps(split.records)]}"
    )
    return Opened(train, test, None, about.names, stamp)


def records_of(about: Description, name: str) -> Records:
    """Returns the records of a split, whose files have been opened once.

    Raises:
      DataError: a file is missing or damaged, or the split is empty.
    """
    split = about.info.splits[name]
    files = tuple(zip(map(str, split.filepaths), map(int, split.shard_lengths), strict=True))
    records = Records(files, about.image, about.label, len(about.names), example_schema())
    records.check()
    if not len(records):
        raise DataError(f"{about.info.full_name}: split {name!r} is empty: prepare the set again.")
    return records


def _stamps(records: Records) -> list[tuple[str, int, int]]:
    """Returns what copies of a set have in common: the names, the lengths and the sizes of its files."""
    paths = ((pathlib.Path(path), length) for path, length in records.files)
    return [(path.name, length, path.stat().st_size) for path, length in paths]


def _all(records: Records, positions: Numbers) -> Iterator[Record]:
    for start in range(0, len(positions), 1000):
        yield from records.read(positions[start : start + 1000])


def _shape(
    directory: pathlib.Path, about: Description, splits: list[Records], image_size: int
) -> tuple[int, int, int]:
    """Returns the height, the width and the number of channels of what is seen of the images.

    What the description leaves open, the first images say. If a later one differs, reading it says so.
    """
    height, width, channels = about.shape
    if image_size:
        height = width = image_size
    if height and width and channels:
        return height, width, channels
    found: list[tuple[int, int, int]] = []
    for records in splits:
        for record in _all(records, range(min(_LOOKED_AT, len(records)))):
            try:
                size = size_of(record.data)
            except Exception as error:
                raise DataError(
                    f"{record.name} cannot be decoded ({error}): prepare the set again."
                ) from error
            found.append((height or size[0], width or size[1], channels or size[2]))
            if found[-1] != found[0]:
                raise uneven(directory, found[0], found[-1])
    return found[0]
