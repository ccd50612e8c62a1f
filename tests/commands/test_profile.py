"""The profile of a training step: its numbers agree with each other and with counts of our own."""

import gzip
import json

import jax
import pytest

from qresnet_jax.commands import profile
from qresnet_jax.errors import ConfigError, UserError
from qresnet_jax.train.checkpoints.workdir import claim_workdir
from tests.train.tiny_runs import FLOAT, configuration, tiny_data

STEPS = 4
# 8x8 images: the stem and two blocks of two convolutions in each of three stages, with a projection in two of them.
MACS = (
    64 * 9 * (1 * 16 + 16 * 16 * 2)
    + 16 * (9 * (16 * 32 + 32 * 32) + 16 * 32)
    + 4 * (9 * (32 * 64 + 64 * 64) + 32 * 64)
    + 64 * 4
)


def run(workdir, **changes):
    config = configuration(**{**FLOAT, "profile.steps": STEPS, **changes})
    with tiny_data():
        return profile.profile(config, workdir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A directory with something that looks like a run, which stays as it is."""
    directory = tmp_path_factory.mktemp("profile")
    (directory / "train.log").write_text("as it was")
    return directory


@pytest.fixture(scope="module")
def result(workdir):
    return run(workdir)


def test_the_numbers_agree_with_each_other(result):
    assert (result["devices"], result["steps"], result["batch_size"]) == (1, STEPS, 16)
    assert result["images_per_second"] * result["seconds_a_step"] == pytest.approx(16)
    assert sum(row["share"] for row in result["operations"]) == pytest.approx(1)
    seconds = [row["seconds"] for row in result["operations"]]
    assert seconds == sorted(seconds, reverse=True) and seconds[0] > 0
    products = [row for row in result["operations"] if row["source"].endswith("conv_general_dilated")]
    assert {row["calls"] for row in products} == {1}
    assert result["collectives"] == {"count": 0, "bytes": 0}  # on one device
    assert 0 <= result["seconds_for_images"] < result["seconds_a_step"]
    flops = result["flops_per_second"]
    assert flops["reached"] * result["seconds_a_step"] == pytest.approx(result["flops"]["products"])
    assert flops["peak"] > 0 and flops["peak_dtype"] == "float32" and flops["peak_size"] >= 256


def test_flops_are_counted_like_xla_and_like_a_formula(result):
    assert result["flops"]["products"] == 3 * 2 * MACS * 16
    # XLA counts no products with padding, of which small images have many, and no gradient of the pixels.
    assert 0.7 < result["flops"]["compiled"] / result["flops"]["products"] < 1.1


def test_memory_counts_what_goes_into_the_program(result):
    images, labels_and_order, mean, key = 40 * 64, 2 * 4 * 40, 4, 8
    memory = result["memory"]
    state = memory["arguments"] - (images + labels_and_order + mean + key)
    addresses = memory["outputs"] - state  # of the arrays of the state, which all come out again
    assert state > 4 * 77_000 and 0 <= addresses < 8 * 500
    assert 0 < memory["in_place"] <= memory["outputs"]
    assert memory["temporaries"] > 16 * 64 * 16 * 4  # at least the stem's result


def test_the_files_are_the_result_and_a_trace_for_perfetto(result, workdir):
    assert json.loads((workdir / "profile" / "profile.json").read_text()) == result
    events = json.loads(gzip.decompress((workdir / result["trace"]).read_bytes()))["traceEvents"]
    named = {event.get("name") for event in events}
    assert {row["name"] for row in result["operations"]} <= named
    assert sum(event.get("name") == "train" for event in events) >= STEPS
    assert {path.name for path in workdir.iterdir()} == {"train.log", "profile", ".lock"}
    assert (workdir / "train.log").read_text() == "as it was"


def test_the_table_shows_the_longest_operations_and_the_sum_of_the_others(result):
    text = profile.as_text(result)
    longest = result["operations"][0]["name"]
    assert text.splitlines()[1].split()[0] == longest
    assert f"{len(result['operations']) - profile.SHOWN} others" in text
    assert "this device does not report it" in text
    assert "12.0 MB\n" in profile.as_text({**result, "memory": {**result["memory"], "peak": 12_000_000}})


def test_a_second_profile_adds_a_trace(result, workdir, monkeypatch, caplog, package_log):
    package_log.propagate = True
    monkeypatch.setattr(profile, "read_trace", lambda path, module: [])  # as where the driver refuses
    again = run(workdir)
    assert again["operations"] == [] and again["trace"] != result["trace"]
    assert "NVreg_RestrictProfilingToAdminUsers" in caplog.text
    assert len(list((workdir / "profile").rglob("*.xplane.pb"))) == 2
    assert profile.as_text(again)


def test_what_cannot_be_profiled_is_refused_before_anything_is_compiled(tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "jit", None)
    (tmp_path / "file").mkdir()
    (tmp_path / "file" / "profile").write_text("")
    with pytest.raises(UserError, match="file/profile cannot be made .*is a file.*give another --workdir"):
        run(tmp_path / "file")
    with pytest.raises(ConfigError, match="config.profile.steps=0: must be an integer from 1 to 1000"):
        run(tmp_path, **{"profile.steps": 0})
    with claim_workdir(tmp_path), pytest.raises(UserError, match="another process trains in"):
        run(tmp_path)
    assert not list(tmp_path.rglob("profile.json"))
