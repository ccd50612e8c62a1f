"""The examples run as they stand, and what they print is true."""

import functools
import os
import pathlib
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

from qresnet_jax import load_config, load_packed
from qresnet_jax.data import load_dataset
from qresnet_jax.ship.nodes import ThresholdsNode

EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
MAIN = EXAMPLES.parent / "main.py"


@pytest.fixture(scope="module")
def digits():
    """The test images of the digits, and their classes."""
    return load_dataset(load_config("digits").data).test


def example(run_main, name, *args, cwd):
    """What an example of that name prints, in another directory than the checkout."""
    program = (sys.executable, EXAMPLES / name)
    result = run_main(*args, cwd=cwd, program=program, PYTHONPATH=str(EXAMPLES.parent))
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_load_and_predict_names_real_images_correctly(run_main, digits, tmp_path):
    printed = example(run_main, "load_and_predict.py", cwd=tmp_path)
    lines = re.findall(r"image (\d+) shows a (\d), and is classified as (\d)", printed)
    assert len(lines) == 5
    assert all(shown == found == str(digits.labels[int(i)]) for i, shown, found in lines)
    right = load_packed("digits_resnet8_w1a2", "numpy").predict(digits.images) == digits.labels
    assert f"{np.mean(right):.2%} of the {len(right)} test images are classified correctly" in printed
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_train_and_ship_trains_and_ships_the_same_network(run_main, digits, tmp_path):
    printed = example(run_main, "train_and_ship.py", "--epochs=2", cwd=tmp_path)
    path = tmp_path / "runs" / "train_and_ship" / "model.safetensors"
    shipped = re.search(
        r"shipped: (\S+) has (\d+) bytes and classifies (\S+) % correctly", printed.replace("%", " %")
    )
    network = load_packed(path, "numpy")
    assert shipped[1] == "runs/train_and_ship/model.safetensors" and int(shipped[2]) == path.stat().st_size
    assert shipped[3] == f"{100 * np.mean(network.predict(digits.images) == digits.labels):.2f}"
    levels = {len(node.levels) for node in network.network.nodes if isinstance(node, ThresholdsNode)}
    assert levels == {2**2, 2**4}  # 2 and 4 bits


@pytest.mark.slow
def test_own_network_trains_and_ships_a_network_that_is_not_ours(run_main, digits, tmp_path):
    printed = example(run_main, "own_network.py", "--epochs=2", cwd=tmp_path)
    path = tmp_path / "runs" / "own_network" / "model.safetensors"
    network = load_packed(path, "numpy")
    names = [node.name for node in network.network.nodes if node.name]
    assert names == ["stem", "convs.0", "convs.1", "dense", "head"]
    accuracy = np.mean(network.predict(digits.images) == digits.labels)
    assert f"has {path.stat().st_size:,} bytes and classifies {accuracy:.2%} correctly" in printed
    assert (path.parent / "c" / "model.c").exists()


def test_the_network_of_the_example_stands_in_the_documentation():
    source = (EXAMPLES / "own_network.py").read_text()
    network = source[source.index("class Vgg") : source.index("if __name__")].strip()
    assert f"```python\n{network}\n```" in (EXAMPLES.parent / "docs" / "own_networks.md").read_text()


def call_make(directory, *args):
    command = ["make", f"QRESNET={sys.executable} {MAIN}", *args]
    # `make test` may run these tests; its own settings are not those of a user's shell.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        command, cwd=directory, env=env, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def c_project(tmp_path_factory):
    """A function that calls `make` in a copy of the C project; returns the finished process."""
    if shutil.which("make") is None:
        pytest.skip("there is no make")
    copy = tmp_path_factory.mktemp("c") / "c_project"
    shutil.copytree(EXAMPLES / "c_project", copy, ignore=shutil.ignore_patterns("model", "classify"))

    return copy, functools.partial(call_make, copy)


def test_the_c_project_prints_the_class_of_a_real_image(c_project, compiler, digits):
    directory, make = c_project
    done = make(f"CC={compiler}", "CFLAGS=-std=c99 -O1 -Wall -Wextra -Werror -pedantic")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(digits.labels[0])
    assert (directory / "image.raw").read_bytes() == digits.images[0].tobytes()
    assert f"It prints the class, `{digits.labels[0]}`" in (directory / "README.md").read_text()


def test_the_c_project_classifies_other_images_and_refuses_what_is_none(c_project, compiler, digits):
    directory, make = c_project
    for i in (1, 2, 3):
        digits.images[i].tofile(directory / "other.raw")
        done = make(f"CC={compiler}", "CFLAGS=-std=c99 -O1", "IMAGE=other.raw")
        assert done.stdout.splitlines()[-1] == str(digits.labels[i]), done.stderr
    for size in (63, 65):
        (directory / "other.raw").write_bytes(bytes(size))
        done = make(f"CC={compiler}", "CFLAGS=-std=c99 -O1", "IMAGE=other.raw")
        assert done.returncode != 0
        assert "other.raw must have 64 bytes: 8 rows of 8 pixels with 1 channels" in done.stderr


def test_the_c_project_cleans_up(c_project):
    directory, make = c_project
    assert make("clean").returncode == 0
    names = {path.name for path in directory.iterdir()} - {"other.raw"}
    assert names == {".gitignore", "Makefile", "README.md", "image.raw", "main.c"}


@pytest.fixture(scope="module")
def cortex_m4(tmp_path_factory):
    """A function that calls `make` in a copy of the firmware project; returns the finished process."""
    for program in ("make", "arm-none-eabi-gcc", "qemu-system-arm"):
        if shutil.which(program) is None:
            pytest.skip(f"there is no {program}")
    copy = tmp_path_factory.mktemp("firmware") / "cortex_m4"
    shutil.copytree(EXAMPLES / "cortex_m4", copy, ignore=shutil.ignore_patterns("model", "firmware.elf"))
    return copy, functools.partial(call_make, copy)


def test_the_firmware_classifies_ten_images_in_an_emulator_and_cleans_up(cortex_m4):
    directory, make = cortex_m4
    committed = {path.name for path in directory.iterdir()}
    assert committed == {
        "Makefile",
        "README.md",
        "images.raw",
        "link.ld",
        "main.c",
        "semihosting.h",
        "start.c",
    }
    done = make("CFLAGS=-std=c99 -O2 -Wall -Wextra -Werror")
    assert done.returncode == 0, done.stderr
    *images, last = done.stdout.splitlines()[-11:]
    assert last == "10 of 10 right"
    printed = [re.fullmatch(r"right +\d+ instructions  (.+)", line)[1] for line in images]
    network = load_packed("fashion_mnist_resnet20_w1a2", "numpy")
    pixels = np.fromfile(directory / "images.raw", np.uint8).reshape(10, 28, 28, 1)
    assert printed == [network.class_names[k] for k in network.predict(pixels)]
    assert printed[0] == "Ankle boot" and "`Ankle boot`" in (directory / "README.md").read_text()
    size = make("size")
    assert size.returncode == 0 and "firmware.elf" in size.stdout, size.stderr
    assert make("clean").returncode == 0
    assert {path.name for path in directory.iterdir()} == committed
