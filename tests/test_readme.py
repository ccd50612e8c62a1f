"""What the README shows runs."""

import pathlib
import re
import subprocess
import sys

REPO = pathlib.Path(__file__).parents[1]
README = (REPO / "README.md").read_text()


def test_the_example_network_trains():
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=REPO, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    first, last = map(float, re.search(r"loss (\S+) -> (\S+),", done.stdout).groups())
    assert last < first


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
