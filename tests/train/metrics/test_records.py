"""`metrics.jsonl` has each step once and no torn line, whatever was there before; TensorBoard has the same values."""

import json
import pathlib

import pytest
from tensorboardX.proto import event_pb2

from qresnet_jax.errors import UserError
from qresnet_jax.train.metrics.records import Metrics, read_metrics


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    assert text == "" or text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def write(workdir, last_step, *records):
    workdir.mkdir(exist_ok=True)
    metrics = Metrics(workdir, last_step)
    for step, values in records:
        metrics.write(step, values)
    metrics.close()


def scalars(path):
    """`(step, tag, value)` of an event file: records of length, checksum, protocol buffer, checksum."""
    data, found = path.read_bytes(), []
    while data:
        size = int.from_bytes(data[:8], "little")
        event = event_pb2.Event.FromString(data[12 : 12 + size])
        found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
        data = data[16 + size :]
    return found


def test_each_step_is_one_line(tmp_path):
    write(tmp_path, 0, (1, {"a": 0.1}), (2, {"a": 0.2, "b": 3}))
    assert lines(tmp_path) == [{"step": 1, "a": 0.1}, {"step": 2, "a": 0.2, "b": 3}]


def test_values_of_the_same_step_are_merged_into_its_line(tmp_path):
    write(tmp_path, 0, (1, {"a": 0.1}), (2, {"a": 0.2}), (2, {"b": 0.5}), (2, {"a": 0.3}), (3, {"a": 0.4}))
    assert lines(tmp_path) == [{"step": 1, "a": 0.1}, {"step": 2, "a": 0.3, "b": 0.5}, {"step": 3, "a": 0.4}]


def test_values_are_on_disk_at_once(tmp_path):
    metrics = Metrics(tmp_path, 0)
    metrics.write(1, {"a": 0.1})
    assert lines(tmp_path) == [{"step": 1, "a": 0.1}]
    metrics.write(1, {"b": 0.2})
    assert lines(tmp_path) == [{"step": 1, "a": 0.1, "b": 0.2}]
    metrics.close()


def test_floats_keep_every_bit(tmp_path):
    values = {"a": 0.1 + 0.2, "b": 1e-320, "c": 2.0**60 + 1}
    write(tmp_path, 0, (1, values))
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1, **values}]


def test_going_on_keeps_what_the_checkpoint_has_and_drops_the_rest(tmp_path):
    write(tmp_path, 0, (1, {"a": 1}), (2, {"a": 2}), (3, {"a": 3}))
    metrics = Metrics(tmp_path, 2)
    assert lines(tmp_path) == [{"step": 1, "a": 1}, {"step": 2, "a": 2}]
    assert (
        metrics.at(2) == {"step": 2, "a": 2} and metrics.at(3) == {} and metrics.at(1) == {"step": 1, "a": 1}
    )
    metrics.write(2, {"b": 5})
    metrics.write(3, {"a": 4})
    metrics.close()
    assert lines(tmp_path) == [{"step": 1, "a": 1}, {"step": 2, "a": 2, "b": 5}, {"step": 3, "a": 4}]


def test_a_line_that_is_held_is_written_with_what_follows_or_with_the_next_step_or_at_the_end(tmp_path):
    metrics = Metrics(tmp_path, 0)
    metrics.write(1, {"a": 0.1}, more_follows=True)
    assert lines(tmp_path) == [] and metrics.at(1) == {"step": 1, "a": 0.1}
    metrics.write(1, {"b": 0.2})
    assert lines(tmp_path) == [{"step": 1, "a": 0.1, "b": 0.2}]
    metrics.write(2, {"a": 0.3}, more_follows=True)
    metrics.write(3, {"a": 0.4})
    written = [{"step": 1, "a": 0.1, "b": 0.2}, {"step": 2, "a": 0.3}, {"step": 3, "a": 0.4}]
    assert lines(tmp_path) == written
    metrics.write(4, {"a": 0.5}, more_follows=True)
    metrics.close()
    assert lines(tmp_path) == [*written, {"step": 4, "a": 0.5}]


def test_what_is_written_stays_where_it_is(tmp_path):
    def inode():
        return (tmp_path / "metrics.jsonl").stat().st_ino

    write(tmp_path, 0, (1, {"a": 1}), (2, {"a": 2}), (3, {"a": 3}))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4')
    before = inode()
    metrics = Metrics(tmp_path, 2)
    for step in (3, 4):  # as in training: an interval, and the validation after it
        metrics.write(step, {"a": step}, more_follows=True)
        metrics.write(step, {"b": step})
        assert inode() == before, "it is appended to, and not written anew"
    metrics.write(4, {"c": 5})  # as the test, once
    assert [line.keys() - {"step"} for line in lines(tmp_path)] == [{"a"}, {"a"}, {"a", "b"}, {"a", "b", "c"}]
    metrics.close()


def test_a_kill_at_any_byte_leaves_what_the_checkpoint_has(tmp_path):
    records = [(1, {"a": 0.25}), (2, {"a": 0.5, "b": 3}), (3, {"a": 1e-9})]
    write(tmp_path / "whole", 0, *records)
    whole = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    ends = [i + 1 for i, byte in enumerate(whole) if byte == ord("\n")]
    for size in range(len(whole) + 1):
        path = tmp_path / "metrics.jsonl"
        path.write_bytes(whole[:size])
        done = sum(end <= size for end in ends)
        Metrics(tmp_path, done).close()
        assert path.read_bytes() == whole[: ends[done - 1] if done else 0]


def test_a_file_that_must_not_be_written_is_refused(tmp_path, monkeypatch):
    write(tmp_path, 0, (1, {"a": 1}))

    usual = pathlib.Path.open

    def without_permission(self, mode="r", *args, **kwargs):
        if "a" in mode:
            raise PermissionError(13, "Permission denied", str(self))
        return usual(self, mode, *args, **kwargs)

    monkeypatch.setattr(pathlib.Path, "open", without_permission)  # root may write everything
    with pytest.raises(UserError, match="metrics.jsonl cannot be written: make it writable to continue"):
        Metrics(tmp_path, 1)


def test_a_new_run_begins_with_no_lines(tmp_path):
    write(tmp_path, 0, (1, {"a": 1}))
    write(tmp_path, 0)
    assert lines(tmp_path) == []


@pytest.mark.parametrize(
    "torn", ['{"step": 3', '{"step": 3, "a": 1}', "{", '{"step": 3, "a": 1e', "\x00\x00"]
)
def test_a_torn_last_line_is_dropped(tmp_path, torn):
    write(tmp_path, 0, (1, {"a": 1}), (2, {"a": 2}))
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write(torn)
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2]
    write(tmp_path, 5, (6, {"a": 6}))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 6]


@pytest.mark.parametrize(
    "bad", ["garbage", "{}", "[1]", '"text"', '{"step": "x"}', '{"step": null}', "7", ""]
)
def test_a_complete_line_that_is_no_record_is_refused_by_its_number(tmp_path, bad):
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 1}}\n{bad}\n{{"step": 3}}\n')
    with pytest.raises(UserError) as caught:
        Metrics(tmp_path, 3)
    assert (
        str(caught.value) == f"{path}, line 2 is no JSON object with a step: move the file away to continue"
    )
    assert path.read_text().startswith('{"step": 1}\n'), "the file stays as it is"


def test_a_file_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="metrics.jsonl cannot be read .*: move it away to continue"):
        Metrics(tmp_path, 3)


def test_a_directory_in_its_place_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match="cannot be read .*: move it away to continue"):
        Metrics(tmp_path, 0)


def test_no_file_means_no_lines(tmp_path):
    assert read_metrics(tmp_path / "metrics.jsonl") == []


def test_tensorboard_has_the_same_scalars(tmp_path):
    write(tmp_path, 0, (1, {"train_loss": 0.5}), (2, {"train_loss": 0.25, "eval_accuracy": 1.0}))
    (events,) = tmp_path.glob("events.out.tfevents.*")
    assert scalars(events) == [(1, "train_loss", 0.5), (2, "train_loss", 0.25), (2, "eval_accuracy", 1.0)]


def test_nothing_else_is_left_in_the_directory(tmp_path):
    write(tmp_path, 0, (1, {"a": 1}), (1, {"b": 1}))
    names = {path.name.split(".out.")[0] for path in tmp_path.iterdir()}
    assert names == {"metrics.jsonl", "events"}
