"""Every engine is timed at every batch size, and compared with the float twin."""

import dataclasses

import jax
import numpy as np
import pytest

from qresnet_jax.commands.bench import FLOAT, as_text, bench
from qresnet_jax.config import default_config
from qresnet_jax.errors import UserError
from qresnet_jax.ship.jax.float_baseline import float_baseline
from qresnet_jax.ship.load import ENGINES, find_packed
from qresnet_jax.ship.nodes import BinaryConvNode, StemNode
from qresnet_jax.ship.packed.file import read_packed, save_packed


@pytest.fixture(scope="module")
def network():
    return read_packed(find_packed("digits_resnet8_w1a2"))


def configuration(packed):
    config = default_config()
    config.packed, config.bench.seconds = str(packed), 0.01
    config.bench.batch_sizes = (1, 3)
    return config


def test_rows_are_what_a_clock_says(tmp_path, compiler):
    rows = bench(configuration("digits_resnet8_w1a2"), tmp_path)
    expected = [(engine, batch) for batch in (1, 3) for engine in (*ENGINES, FLOAT)]
    assert [(row["engine"], row["batch"]) for row in rows] == expected
    for row in rows:
        assert 0 < row["p50"] <= row["p99"]
        assert row["images_per_second"] == pytest.approx(1e3 * row["batch"] / row["p50"])
        twin = next(r for r in rows if r["engine"] == FLOAT and r["batch"] == row["batch"])
        assert row["ratio"] == pytest.approx(twin["p50"] / row["p50"])
        assert row["auto"] == (row["engine"] == "c")
    assert len(as_text(rows).splitlines()) == 1 + len(rows)
    assert as_text(rows).count("\nc (auto) ") == 2


def test_a_network_for_any_size_of_images_is_refused(network, tmp_path):
    save_packed(dataclasses.replace(network, height=None), tmp_path / "any")
    with pytest.raises(UserError, match="takes images of any size"):
        bench(configuration(tmp_path / "any"), tmp_path)


def test_an_engine_that_does_not_work_here_is_left_out_with_the_reason(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CC", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with caplog.at_level("INFO", "qresnet_jax"):
        rows = bench(configuration("digits_resnet8_w1a2"), tmp_path)
    assert {row["engine"] for row in rows} == {*ENGINES, FLOAT} - {"c"}
    assert "engine c is left out: " in caplog.text
    assert [row["engine"] for row in rows if row["auto"]] == ["jax", "jax"]


def test_the_float_twin_has_the_same_convolutions(network):
    twin = float_baseline(network)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 1), np.uint8)
    together = np.asarray(twin(images))
    assert together.shape == (3, 10) and together.dtype == np.float32 and np.ptp(together) > 0
    np.testing.assert_allclose(together[:1], twin(images[:1]), rtol=1e-4, atol=1e-5)
    convolutions = sum(isinstance(node, StemNode | BinaryConvNode) for node in network.nodes)
    assert str(jax.make_jaxpr(twin)(images)).count("= conv_general_dilated[") == convolutions
