"""Records of images in ArrayRecord files, read in any order."""

import numpy as np
import pytest

from qresnet_jax.errors import DataError
from tests.data.streaming.records_cases import write_records

PAIRS = [(bytes([i]) * (i + 1), i % 3) for i in range(11)]


@pytest.mark.parametrize("shards", [1, 4, 11])
def test_records_are_read_by_their_positions_over_all_files(tmp_path, shards):
    records = write_records(tmp_path, PAIRS, shards)
    records.check()
    assert len(records) == 11
    for wanted in ([3], [10, 0, 5, 5], list(range(11)), np.arange(11)[::-3]):
        found = records.read(wanted)
        assert [(record.data, record.label) for record in found] == [PAIRS[i] for i in wanted]
    assert records.read([0])[0].name.endswith("train-0.array_record, record 0")


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: b"", lambda d: d[:-1]])
def test_a_file_that_is_cut_or_missing_is_named_before_it_is_used(tmp_path, damage):
    records = write_records(tmp_path, PAIRS, 2)
    path = tmp_path / "train-1.array_record"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match=f"{path} is damaged .*restore the file"):
        records.check()
    path.unlink()
    with pytest.raises(DataError, match=f"{path} is damaged .the file is missing"):
        records.check()


def test_a_file_with_another_number_of_records_is_refused(tmp_path):
    records = write_records(tmp_path, PAIRS, 2)
    write_records(tmp_path, PAIRS[:9], 2)
    with pytest.raises(DataError, match="expected 6 records, got 5"):
        records.check()
