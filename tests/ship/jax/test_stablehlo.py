"""Exported functions, read back by another process, against the simulation and the NumPy engine."""

import errno
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from qresnet_jax.errors import ExportError, UserError
from qresnet_jax.ship import reference
from qresnet_jax.ship.jax.stablehlo import read_stablehlo, simulation, write_stablehlo

WITHOUT_THIS_PACKAGE = """
import pathlib, sys
import jax, numpy as np
path, images, logits = sys.argv[1:]
function = jax.export.deserialize(bytearray(pathlib.Path(path).read_bytes()))
np.save(logits, function.call(np.load(images)))
assert not any(name.startswith("qresnet_jax") for name in sys.modules)
"""


def run_elsewhere(path, images):
    files = path.with_name("images.npy"), path.with_name("logits.npy")
    np.save(files[0], images)
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}  # one device, as with users
    command = [sys.executable, "-c", WITHOUT_THIS_PACKAGE, path, *files]
    subprocess.run([*map(str, command)], check=True, env=environment, cwd=path.parent, timeout=300)
    return np.load(files[1])


def assert_near(logits, expected):
    """One image may stand at an edge of float32."""
    assert (logits.dtype, logits.shape) == (np.float32, expected.shape)
    assert np.sum(np.any(np.abs(logits - expected) > 1e-5, axis=1)) <= 1
    assert len(np.unique(expected[:, 0])) > 20


@pytest.mark.parametrize("name", ["basic pact", "preact_bottleneck sigmoid"])
def test_the_simulation_runs_in_another_process(name, trained_named, make_images, tmp_path):
    model, network = trained_named(name)
    shape = (network.height, network.width, network.channels)
    images, path = make_images(33, shape), tmp_path / "net.stablehlo"
    written = simulation(model, network.mean)
    write_stablehlo(written, path, shape)
    expected = np.asarray(jax.jit(written)(images))
    assert_near(run_elsewhere(path, images), expected)
    function = read_stablehlo(path)
    assert_near(np.asarray(function(images)), expected)
    assert function(images[:1]).shape == (1, 5)


def test_the_simulation_is_that_of_evaluation_mode_and_leaves_the_model(build_model, make_images):
    model = build_model(in_channels=3)
    model.train()
    before = np.asarray(model.stem_norm.mean[...])
    function, images = simulation(model, [1, 2.5, 3]), make_images(3, (6, 6, 3))
    np.testing.assert_array_equal(before, model.stem_norm.mean[...])
    assert not model.stem_norm.use_running_average
    model.eval()
    x = (images - np.array([1, 2.5, 3], np.float32)) / 64
    np.testing.assert_array_equal(jax.jit(function)(images), jax.jit(lambda x: model(x))(x))


def test_the_integer_engine_runs_in_another_process(trained_named, make_images, tmp_path):
    from qresnet_jax.ship.jax.engine import make_logits

    _, network = trained_named("basic pact")
    images, path = make_images(33, (8, 8, 3)), tmp_path / "net.stablehlo"
    write_stablehlo(make_logits(network), path, (8, 8, 3))
    logits = run_elsewhere(path, images)
    assert logits.dtype == np.int32
    np.testing.assert_array_equal(logits, reference.logits(network, images))


def brightness(images):
    return jnp.sum(images.astype(jnp.int32), axis=(1, 2, 3))


@pytest.fixture
def path(tmp_path):
    """Of a small exported function."""
    write_stablehlo(brightness, tmp_path / "f.stablehlo", (2, 3, 1))
    return tmp_path / "f.stablehlo"


def test_files_are_for_every_platform_and_number_of_images(path):
    exported = export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    (images,) = exported.in_avals
    assert (str(images.shape), images.dtype) == ("(N, 2, 3, 1)", np.uint8)
    function = read_stablehlo(path)
    for n in (1, 7):
        np.testing.assert_array_equal(function(np.full((n, 2, 3, 1), 255, np.uint8)), np.full(n, 6 * 255))
    with pytest.raises(ValueError, match="Shape mismatch"):
        function(np.zeros((1, 3, 3, 1), np.uint8))
    with pytest.raises(ValueError, match="Dtype mismatch"):
        function(np.zeros((1, 2, 3, 1), np.float32))


def test_functions_that_must_know_the_number_of_images(tmp_path):
    def halves(images):
        return brightness(images[: images.shape[0] // 2] if images.shape[0] > 3 else images)

    with pytest.raises(ExportError, match="any number of images .*'N' > '3'.* give a batch_size"):
        write_stablehlo(halves, tmp_path / "f", (2, 3, 1))
    assert not list(tmp_path.iterdir())
    write_stablehlo(halves, tmp_path / "f", (2, 3, 1), batch_size=4)
    function = read_stablehlo(tmp_path / "f")
    assert function(np.ones((4, 2, 3, 1), np.uint8)).tolist() == [6, 6]
    with pytest.raises(ValueError, match="Shape mismatch"):
        function(np.ones((5, 2, 3, 1), np.uint8))


@pytest.mark.parametrize(
    "damage", [lambda data: b"", lambda data: b"no such thing" * 9, lambda data: data[:-100]]
)
def test_other_files_are_refused(damage, path):
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match="f.stablehlo is no StableHLO file.*export it again"):
        read_stablehlo(path)


def test_missing_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="nothing cannot be read: No such file"):
        read_stablehlo(tmp_path / "nothing")


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "disk full")

    old = path.read_bytes()
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="disk full"):
        write_stablehlo(lambda images: images, path, (4, 4, 1))
    assert path.read_bytes() == old and os.listdir(path.parent) == [path.name]
