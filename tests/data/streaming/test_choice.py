"""Whether a set is held in memory or streamed."""

from types import SimpleNamespace

import pytest

from qresnet_jax.data.streaming import choice
from qresnet_jax.data.streaming.choice import is_streamed, number_of_workers


def unknown():
    raise AssertionError("the size does not matter here")


def streamed(limit=1000, known=lambda: (10, (5, 6, 3)), **fields):
    return is_streamed(SimpleNamespace(name="set", **fields), known, limit)


def test_true_and_false_decide_without_a_look_at_the_set():
    assert streamed(known=unknown, streaming=True) and not streamed(known=unknown, streaming=False)


def test_auto_compares_the_decoded_bytes_with_the_limit(caplog):
    caplog.set_level("INFO", logger="qresnet_jax")
    assert streamed(limit=899) and not streamed(limit=900)
    assert "held in memory: 10 images of 6x5 take 0.00 GB" in caplog.text
    assert not streamed(limit=10 * 2 * 2 * 3, image_size=2) and streamed(
        limit=10 * 2 * 2 * 3 - 1, image_size=2
    )
    assert streamed(known=lambda: (10, (None, None, 3))) and "different sizes" in caplog.text
    assert not streamed(limit=120, known=lambda: (10, (None, None, None)), image_size=2)


def test_random_parts_are_streamed_whatever_the_size():
    assert streamed(known=unknown, least_crop_area=0.5)


def test_without_a_limit_a_quarter_of_the_memory_counts(monkeypatch):
    monkeypatch.setattr(choice, "memory", lambda: 3600)
    assert not streamed(limit=None)
    monkeypatch.setattr(choice, "memory", lambda: 3599)
    assert streamed(limit=None)


@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (2, 1), (8, 7), (100, 16)])
def test_by_default_all_processors_but_one_decode(monkeypatch, cores, workers):
    monkeypatch.setattr(choice, "processors", lambda: cores)
    assert number_of_workers(-1) == workers and number_of_workers(0) == 0 and number_of_workers(64) == 64
