"""What the README shows runs."""

import pathlib
import re
import subprocess
import sys

REPO = pathlib.Path(__file__).parents[1]
README = (REPO / "README.md").read_text()


def run_example(number):
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(examples) == 2
    command = [sys.executable, "-c", examples[number]]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_zoo_predicts():
    from qresnet_jax.ship.load import zoo

    size = zoo()["fashion_mnist_resnet20_w1a2"].stat().st_size
    assert run_example(0).endswith(f" {size} bytes\n")


def test_the_example_network_trains():
    found = re.search(r"loss (\S+) -> (\S+), weights of size (\S+) to (\S+)", run_example(1))
    first, last, smallest, largest = map(float, found.groups())
    assert last < first and smallest == largest > 0


def test_every_file_and_make_target_it_names_exists():
    for path in set(re.findall(r"(?:qresnet_jax|configs)/[\w/]+\.py", README)) - {"configs/NAME.py"}:
        assert (REPO / path).is_file(), path
    targets = re.findall(r"^(\w+):", (REPO / "Makefile").read_text(), flags=re.MULTILINE)
    for target in re.findall(r"make (quickstart|test|slow|lint)\b", README):
        assert target in targets


def test_every_config_is_listed():
    for config in (REPO / "configs").glob("*.py"):
        assert f"`{config.stem}`" in README or config.stem in README, config.stem


def test_every_field_it_names_is_a_field():
    from qresnet_jax.config import default_config, flatten

    fields = flatten(default_config())
    for name in re.findall(r"--config\.([\w.]+)[= )`]", README):
        assert name in fields or name == "a.b", name
