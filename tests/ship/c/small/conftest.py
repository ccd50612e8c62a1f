"""The functions of the headers as a library, and networks that are compiled and compared with the reference."""

import ctypes
import functools
import subprocess

import numpy as np
import pytest

from qresnet_jax.ship import reference
from qresnet_jax.ship.c import engine
from qresnet_jax.ship.c.writer import c_files
from tests.ship.c.small.functions import CODE, FOLDER

# The second one takes what compilers other than GCC and Clang get. Without their attributes, types may not alias.
BUILDS = {"gnu": ["-Os"], "plain": ["-O1", "-U__GNUC__", "-fno-strict-aliasing"]}


@pytest.fixture(scope="session", params=BUILDS)
def library(request, tmp_path_factory, compiler):
    """The functions of the headers."""
    directory = tmp_path_factory.mktemp("small")
    (directory / "small.c").write_text(CODE)
    command = [compiler, "-std=c99", *BUILDS[request.param], "-w", "-shared", "-fPIC", f"-I{FOLDER}"]
    done = subprocess.run([*command, "small.c", "-o", "small.so"], cwd=directory, timeout=300)
    if done.returncode and request.param == "plain":
        pytest.skip("the system's headers need __GNUC__")
    assert done.returncode == 0
    return ctypes.CDLL(str(directory / "small.so"))


@pytest.fixture
def check(monkeypatch, tmp_path, make_images, compiler):
    """`check(network)` compiles the profile `small`, runs it and compares it with the reference."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", compiler)
    monkeypatch.setattr(
        engine, "FLAGS", ("-std=c99", "-Wall", "-Wextra", "-Werror", "-Os", "-shared", "-fPIC")
    )
    monkeypatch.setattr(engine, "c_files", functools.partial(c_files, profile="small"))

    def compare(network, least=4, images=None):
        """Compares the logits, of which at least so many are different, so that they say something."""
        images = make_images(8, network.image_shape) if images is None else images
        expected = reference.logits(network, images)
        assert len(np.unique(expected)) >= least
        np.testing.assert_array_equal(engine.logits(network, images), expected)

    return compare
