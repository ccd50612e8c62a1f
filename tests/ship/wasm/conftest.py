"""What runs WebAssembly here: a compiler for it, Node.js and Chromium; tests skip what is missing."""

import json
import shutil
import subprocess

import pytest

from qresnet_jax.ship.load import find_packed
from qresnet_jax.ship.packed.file import read_packed
from qresnet_jax.ship.wasm.writer import write_wasm


@pytest.fixture(scope="session")
def tools(wasm_tools):
    """The programs that make WebAssembly."""
    return wasm_tools


@pytest.fixture(scope="session")
def node(tools):
    """`node(script, directory)`: the JSON that a script prints; it can import `./model.mjs` from there."""
    if shutil.which("node") is None:
        pytest.skip("Node.js is not installed")

    def run(script, directory):
        shutil.copy(directory / "model.js", directory / "model.mjs")
        (directory / "script.mjs").write_text(script)
        done = subprocess.run(
            ["node", "script.mjs"], cwd=directory, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture(scope="session")
def digits():
    """The network of the zoo for digits."""
    return read_packed(find_packed("digits_resnet8_w1a2"))


@pytest.fixture(scope="session")
def exported(tools, digits, tmp_path_factory):
    """The directory of that network's export."""
    directory = tmp_path_factory.mktemp("wasm")
    write_wasm(digits, directory)
    return directory
