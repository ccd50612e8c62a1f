"""A wheel holds all that the package needs, and works outside the checkout.

The wheel is built from a copy of the sources, so that the checkout stays clean, and installed into a fresh environment in a
temporary directory. Two environments are tried:

- In the usual test no package index is needed: a .pth file in the fresh environment names the site-packages of the
  environment that runs the tests, which gives it the dependencies. The package itself comes from the wheel alone, as an
  editable install has its own .pth file, and Python reads no .pth files in directories that a .pth file names.
- In the slow test pip installs all dependencies from the index, in the versions of constraints.txt. That the package works
  there proves that its declared dependencies are complete.
"""

import ast
import email
import importlib.metadata
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import numpy as np
import pytest
from PIL import Image

REPO = pathlib.Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "configs", "qresnet_jax")


def call(*command, cwd, timeout=300):
    """Runs a program, which must succeed; returns what it printed."""
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A copy of what a wheel is built from."""
    copy = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (REPO / name).is_dir():
            shutil.copytree(REPO / name, copy / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(REPO / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory):
    """The path of the wheel, built by the setuptools of this environment."""
    directory = tmp_path_factory.mktemp("wheel")
    pip = (sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--no-index")
    call(*pip, f"--wheel-dir={directory}", cwd=sources)
    (path,) = directory.iterdir()
    return path


@pytest.fixture(scope="module", params=["no index", pytest.param("index", marks=pytest.mark.slow)])
def environment(request, wheel, tmp_path_factory):
    """The directory of a fresh virtual environment that has the wheel; see the top of this file."""
    directory = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", directory, cwd=directory)
    pip = (directory / "bin" / "python", "-m", "pip", "install", "--quiet")
    if request.param == "index":
        call(*pip, f"--constraint={REPO / 'constraints.txt'}", wheel, cwd=directory, timeout=1800)
    else:
        call(*pip, "--no-deps", "--no-index", wheel, cwd=directory)
        (own,) = directory.glob("lib/python*/site-packages")
        theirs = dict.fromkeys(sysconfig.get_path(kind) for kind in ("purelib", "platlib"))
        (own / "dependencies.pth").write_text("".join(f"{path}\n" for path in theirs))
    return directory


@pytest.fixture(scope="module")
def digit():
    """A test image of the digits, uint8 `[8, 8, 1]`, and its class."""
    from qresnet_jax import load_config
    from qresnet_jax.data import load_dataset

    images, labels = load_dataset(load_config("digits").data).test
    return images[0], int(labels[0])


# What is inside.


def test_a_wheel_has_every_file_of_the_package_and_the_configs_and_nothing_else(wheel, sources):
    inside = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    files = {p.relative_to(sources) for p in (sources / "qresnet_jax").rglob("*") if p.is_file()}
    files |= {"qresnet_jax" / p.relative_to(sources) for p in (sources / "configs").glob("*.py")}
    assert inside == {str(path) for path in files}


def test_a_wheel_has_what_is_not_python(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "qresnet_jax/py.typed" in names and "qresnet_jax/configs/digits.py" in names
    assert "qresnet_jax/zoo/digits_resnet8_w1a2.safetensors" in names
    for profile in ("small", "fast"):
        templates = [name for name in names if name.startswith(f"qresnet_jax/ship/c/{profile}/")]
        assert any(name.endswith((".c", ".h")) for name in templates)
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.startswith("tests") or "/test_" in name]


def metadata(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    return email.message_from_bytes(archive.read(name))


def test_a_wheel_says_its_licence_its_python_and_has_the_readme(wheel):
    said = metadata(wheel)
    assert said["License-Expression"] == "Apache-2.0" and said["License-File"] == "LICENSE"
    assert said["Requires-Python"] == ">=3.11"
    assert said.get_payload(decode=True).decode().strip() == (REPO / "README.md").read_text().strip()


def test_everything_that_is_imported_is_a_declared_dependency(wheel):
    declared = {re.match(r"[\w.-]+", line).group() for line in metadata(wheel).get_all("Requires-Dist")}
    declared = {name.lower().replace("_", "-") for name in declared}
    distributions = importlib.metadata.packages_distributions()
    archive = zipfile.ZipFile(wheel)
    imported = {}
    for path in archive.namelist():
        if path.endswith(".py"):
            imported |= dict.fromkeys(top_level_names(archive.read(path)), path)
    foreign = imported.keys() - sys.stdlib_module_names - {"qresnet_jax"}
    assert {"jax", "numpy", "ml_collections"} <= foreign  # the check sees imports
    for name in foreign:
        known_as = {d.lower().replace("_", "-") for d in distributions.get(name, [name])}
        assert known_as & declared, f"{imported[name]} imports {name}, which pyproject.toml does not declare"


def top_level_names(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.split(".")[0]


# What it does, outside the checkout.


def test_an_installed_wheel_trains_exports_and_predicts(environment, run_main, digit, tmp_path):
    python = environment / "bin" / "python"
    qresnet = (environment / "bin" / "qresnet",)
    assert "No broken requirements" in call(python, "-m", "pip", "check", cwd=tmp_path)

    def succeed(*args, program=qresnet):
        result = run_main(*args, cwd=tmp_path, program=program, PYTHONPATH="")
        assert result.returncode == 0, result.stderr
        return result.stdout

    pixels, label = digit
    Image.fromarray(pixels[..., 0]).save(tmp_path / "digit.png")
    np.save(tmp_path / "digit.npy", pixels)

    assert re.search(r"done: test accuracy \d", succeed("--config=digits", "--config.num_epochs=2"))
    assert (tmp_path / "runs" / "digits" / "report.md").is_file()
    assert "wrote runs/digits/model.safetensors" in succeed("--config=digits", "--mode=export")
    predicted = succeed("--config=digits", "--mode=predict", "--config.predict.images=digit.png")
    assert "digit.png (8x8 L -> 8x8 L): " in predicted and predicted.count("%") == 3

    assert succeed("--help", program=(python, "-m", "qresnet_jax")) == succeed("--help")
    code = (
        "import numpy, qresnet_jax; print(qresnet_jax.__file__);"
        "network = qresnet_jax.load_packed('digits_resnet8_w1a2', 'numpy');"
        "print(network.class_names[network.predict(numpy.load('digit.npy')[None])[0]])"
    )
    place, name = succeed(program=(python, "-c", code)).split()
    assert pathlib.Path(place).is_relative_to(environment) and name == str(label)
