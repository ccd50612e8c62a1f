"""Reads encoded images and their labels from ArrayRecord files, in any order."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from qresnet_jax.errors import DataError


class Record(NamedTuple):
    """An image as it is stored."""

    data: bytes  # the content of an image file
    label: int
    name: str  # for messages


class _Part(NamedTuple):
    """Tells array_record, in the form of TFDS, that a file is read as a whole."""

    filename: str
    skip: int
    take: int
    examples_in_shard: int


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of one split. It can be sent to other processes, which then open the files themselves.

    Args:
      files: the paths of the ArrayRecord files with the number of records of each.
      image, label: the names of the features with the image and with its class.
      classes: the number of classes.
      schema: what `example_schema` returns. So a worker does not import TFDS, which would take a second.
    """

    files: tuple[tuple[str, int], ...]
    image: str
    label: str
    classes: int
    schema: tuple[bytes, ...]

    def __len__(self) -> int:
        return sum(length for _, length in self.files)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def check(self) -> None:
        """Opens each file once.

        Raises:
          DataError: a file is missing or damaged, or has another number of records.
        """
        from array_record.python.array_record_module import ArrayRecordReader

        for path, length in self.files:
            try:
                if not pathlib.Path(path).is_file():
                    raise FileNotFoundError("the file is missing")
                reader = ArrayRecordReader(path)
                if (found := reader.num_records()) != length:
                    raise ValueError(f"expected {length} records, got {found}")
                reader.close()
            except Exception as error:  # array_record raises exceptions of its own
                raise _damaged(path, error) from error

    def read(self, positions: Sequence[int] | np.ndarray) -> list[Record]:
        """Returns records by their positions, 0 to `len(self) - 1`.

        Raises:
          DataError: a file is damaged, or an image has no class. The message names the record.
        """
        try:
            found = self._source.__getitems__(positions)
        except Exception as error:
            raise _damaged(self.name_of(positions[0]), error) from error
        return [self._parsed(data, int(i)) for data, i in zip(found, positions, strict=True)]

    def name_of(self, position: int) -> str:
        """Returns the file of a record, and its number in it."""
        for path, length in self.files:
            if position < length:
                return f"{path}, record {position}"
            position -= length
        raise IndexError(position)

    def _parsed(self, data: bytes, position: int) -> Record:
        name = self.name_of(position)
        try:
            feature = self._message.FromString(data).features.feature
            label = feature[self.label].int64_list.value[0]
            image = feature[self.image].bytes_list.value[0]
        except Exception as error:
            raise _damaged(name, error) from error
        if not 0 <= label < self.classes:
            raise DataError(
                f"{name} has the label {label}, expected 0 to {self.classes - 1}: a split without labels (-1) cannot be "
                "used."
            )
        return Record(image, label, name)

    @functools.cached_property
    def _source(self) -> Any:
        from array_record.python.array_record_data_source import ArrayRecordDataSource

        return ArrayRecordDataSource([_Part(path, 0, length, length) for path, length in self.files])

    @functools.cached_property
    def _message(self) -> Any:
        from google.protobuf import descriptor_pool, message_factory

        pool = descriptor_pool.DescriptorPool()
        name = ""
        for serialized in self.schema:
            name = pool.AddSerializedFile(serialized).package
        return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{name}.Example"))


def example_schema() -> tuple[bytes, ...]:
    """Returns the descriptions of the protocol buffer `Example`, those that it needs first."""
    from tensorflow_datasets.proto import tf_example_pb2

    file = tf_example_pb2.DESCRIPTOR
    return (*(needed.serialized_pb for needed in file.dependencies), file.serialized_pb)


def _damaged(name: str, error: Exception) -> DataError:
    return DataError(
        f"{name} is damaged ({error}): restore the file, or delete the set and prepare it again."
    )
