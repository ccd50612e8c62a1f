"""Checksums: written for every file of every item, and compared with what is there."""

import hashlib
import json

import pytest

from qresnet_jax.train.checkpoints.checksums import verify, write_checksums


@pytest.fixture
def step(tmp_path):
    for name in ("state/d/0", "state/manifest", "meta/metadata"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"of {name}")
    (tmp_path / "_CHECKPOINT_METADATA").write_text("{}")
    write_checksums(tmp_path)
    return tmp_path


def test_the_file_holds_the_sha256_of_each_file_of_the_items(step):
    names = ("meta/metadata", "state/d/0", "state/manifest")
    want = {name: hashlib.sha256(f"of {name}".encode()).hexdigest() for name in names}
    assert json.loads((step / "checksums.json").read_text()) == {"sha256": want}


def test_what_is_unchanged_passes_and_so_does_an_item_that_was_not_saved(step):
    for item in ("state", "meta", "metrics"):
        assert verify(step, item) is True


@pytest.mark.parametrize(
    ("content", "what"),
    [(b"of state/d/1", "has changed since it was saved"), (b"", "has changed"), (None, "is missing")],
)
def test_a_file_that_changed_is_named_when_its_item_is_read(step, content, what):
    path = step / "state" / "d" / "0"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ValueError, match=f"^its file state/d/0 {what}"):
        verify(step, "state")
    assert verify(step, "meta")


def test_without_checksums_nothing_is_refused(step):
    (step / "checksums.json").unlink()
    (step / "state" / "d" / "0").unlink()
    assert verify(step, "state") is False


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'{"sha256": 1}', b"\xff\xfe"])
def test_damaged_checksums_are_refused(step, content):
    (step / "checksums.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"^checksums.json is damaged$"):
        verify(step, "state")


def test_a_part_of_the_checksums_never_passes(step):
    whole = (step / "checksums.json").read_bytes()
    for size in range(len(whole)):
        (step / "checksums.json").write_bytes(whole[:size])
        with pytest.raises(ValueError, match="damaged"):
            verify(step, "state")
