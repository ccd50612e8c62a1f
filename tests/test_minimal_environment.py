"""Prediction needs nothing but NumPy and safetensors, and starts fast without JAX."""

import pathlib
import subprocess
import sys

import numpy
import pytest
import safetensors

import qresnet_jax


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs a program with Python's own modules, NumPy, safetensors and this package; nothing else is installed there."""
    site = tmp_path_factory.mktemp("site")
    for package in (numpy, safetensors, qresnet_jax):
        folder = pathlib.Path(package.__file__).parent
        for found in (folder, *folder.parent.glob(f"{folder.name}.libs")):
            (site / found.name).symlink_to(found)

    def run(program, **environment):
        begin = f"import sys; sys.path.append({str(site)!r})\n"
        command = [sys.executable, "-I", "-S", "-c", begin + program]
        return subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment or None)

    return run


PREDICT = """
import numpy as np
from qresnet_jax import load_packed

network = load_packed("digits_resnet8_w1a2", engine=ENGINE)
print(network.predict(np.zeros((2, 8, 8, 1), np.uint8)).shape, network.engine)
print([path.name for path in network.export(DIRECTORY, format="c", c_profile="small")])
"""


@pytest.mark.parametrize("engine", ["numpy", "c", "auto"])
def test_a_packed_network_predicts_and_is_exported(run, engine, tmp_path):
    done = run(f"ENGINE, DIRECTORY = {engine!r}, {str(tmp_path)!r}\n{PREDICT}")
    assert done.returncode == 0, done.stderr
    used = "c" if engine == "auto" else engine
    assert done.stdout == f"(2,) {used}\n['model.h', 'model.c', 'example.c']\n"


def test_without_a_compiler_numpy_predicts(run, tmp_path):
    done = run(f"ENGINE, DIRECTORY = 'auto', {str(tmp_path)!r}\n{PREDICT}", PATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("(2,) numpy\n")


def test_what_needs_jax_says_so(run):
    done = run('from qresnet_jax import load_packed; load_packed("digits_resnet8_w1a2", engine="jax")')
    assert done.returncode != 0
    assert 'engine="jax" needs the package jax, which is not installed: pip install jax' in done.stderr
