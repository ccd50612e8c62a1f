"""Config files are found by name or by path, and loaded."""

import pathlib
import re

import pytest

import qresnet_jax
from qresnet_jax.config import flatten, validate
from qresnet_jax.errors import ConfigError
from qresnet_jax.system import config_files
from qresnet_jax.system.config_files import find_config, load_config, shipped_configs

CHECKOUT = pathlib.Path(__file__).parents[2]


def test_a_checkout_ships_the_files_of_its_configs_directory():
    assert shipped_configs() == {path.stem: path for path in sorted((CHECKOUT / "configs").glob("*.py"))}
    assert "digits" in shipped_configs()


def test_an_installed_package_has_them_inside_itself(tmp_path, monkeypatch):
    package = tmp_path / "qresnet_jax"
    for directory in (package / "configs", tmp_path / "configs"):
        directory.mkdir(parents=True)
    (package / "configs" / "one.py").write_text("def get_config(): ...")
    (tmp_path / "configs" / "of_somebody_else.py").write_text("def get_config(): ...")
    monkeypatch.setattr(config_files, "_PACKAGE", package)
    assert shipped_configs() == {"one": package / "configs" / "one.py"}


def test_a_name_comes_before_a_file_and_a_path_is_itself(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("digits").write_text("def get_config(): ...")
    assert find_config("digits") == CHECKOUT / "configs" / "digits.py"
    assert find_config("./digits").resolve() == tmp_path / "digits"
    assert find_config(tmp_path / "digits") == tmp_path / "digits"


def test_what_is_no_config_is_refused_with_the_names_of_those_that_are(tmp_path):
    (tmp_path / "other.py").write_text("x = 1")
    names = ", ".join(shipped_configs())
    with pytest.raises(ConfigError, match="there is no config file digit: .*--config=digits") as caught:
        find_config("digit")
    assert names in str(caught.value)
    with pytest.raises(
        ConfigError, match=r"other\.py is no config, as it has no function get_config"
    ) as caught:
        find_config(tmp_path / "other.py")
    assert names in str(caught.value)


MODULE = "from qresnet_jax import default_config\n\n"
BEGIN = f"{MODULE}def get_config():\n    config = default_config()\n    "  # the next line is the fifth
# Of config files: their text, and the error in one line, where the file itself is called {}.
BROKEN = {
    "AttributeError": (
        BEGIN + "config.seed.x",
        "{}, line 5: AttributeError: 'int' object has no attribute 'x'",
    ),
    "KeyError": (BEGIN + "{}['a']", "{}, line 5: KeyError: 'a'"),
    "IndexError": (BEGIN + "(2, 2)[2]", "{}, line 5: IndexError: tuple index out of range"),
    "ValueError": (BEGIN + "raise ValueError('two\\nlines')", "{}, line 5: ValueError: two lines"),
    "OSError": (BEGIN + "open('/nowhere')", "{}, line 5: FileNotFoundError: .*'/nowhere'"),
    "SystemExit": (BEGIN + "raise SystemExit('no')", "{}, line 5: SystemExit: no"),
    "no text": (BEGIN + "raise ZeroDivisionError", "{}, line 5: ZeroDivisionError"),
    "a wrong type": (BEGIN + "config.seed = 'a'", "{}, line 5: TypeError: .*'seed'.*"),
    "an unknown field": (
        BEGIN + "config.modle.depth",
        '{}, line 5: AttributeError: .*Did you mean "model".*',
    ),
    "in a function": (f"def f():\n    1 / 0\n{BEGIN}f()", "{}, line 2: ZeroDivisionError: .*"),
    "at the top": ("x = y\ndef get_config(): ...", "{}, line 1: NameError: name 'y' is not defined"),
    "SyntaxError": ("\ndef get_config(:", "{}, line 2: SyntaxError: invalid syntax"),
    "ImportError": (
        "import none_such\ndef get_config(): ...",
        "{}, line 1: ModuleNotFoundError: .*none_such'",
    ),
    "an imported module": (
        "\nimport of_a_user\ndef get_config(): ...",
        "{}, line 2: .*of_a_user.py, line 3: KeyError: 7",
    ),
    "an imported SyntaxError": (
        "import of_another\ndef get_config(): ...",
        "{}, line 1: .*of_another.py, line 1: SyntaxError: .*",
    ),
    "another config": (
        "from qresnet_jax import load_config\ndef get_config():\n    return load_config('no_such')",
        "{}, line 3: there is no config file no_such: .*",
    ),
    "itself": (
        "from qresnet_jax import load_config\ndef get_config():\n    return load_config(__file__)",
        "{}, line 3: RecursionError: maximum recursion depth exceeded.*",
    ),
    "a computed field": (
        BEGIN
        + "config.batch_size = 1 // (config.get_ref('seed') - config.get_ref('seed'))\n    return config",
        "{}, line 5: ZeroDivisionError: .*",
    ),
    "a required field": (
        "from ml_collections import config_dict\n"
        + BEGIN
        + "config.seed = config_dict.required_placeholder(int)\n"
        "    return config",
        "{}: RequiredValueError: .*",
    ),
    "not UTF-8": ("x = '\udcff'  # get_config", "{}.*: SyntaxError: .*utf-8.*"),
    "only the name": (
        "get_config = 3",
        "{} is no config, as it has no function get_config: .*--config=digits",
    ),
    "nothing returned": (BEGIN + "pass", "{}: get_config returned nothing, but .*return config"),
    "a dict returned": (BEGIN + "return {}", "{}: get_config returned a dict, but .*default_config.*"),
    "an argument needed": (
        "def get_config(size): ...",
        "{}: get_config needs an argument: .*--config={}:ARGUMENT",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_error_in_a_config_file_is_one_line_with_its_file_line_and_text(kind, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "of_a_user.py").write_text("\n\n{}[7]")
    (tmp_path / "of_another.py").write_text("1 +")
    text, message = BROKEN[kind]
    path = tmp_path / "mine.py"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert re.fullmatch(message.replace("{}", re.escape(str(path))), str(caught.value)), caught.value


def test_a_config_is_given_what_follows_the_colon(tmp_path):
    path = tmp_path / "sweep.py"
    path.write_text(
        f"{MODULE}def get_config(seeds='1:2'):\n    config = default_config()\n    config.seed = len(seeds)\n    return config"
    )
    assert [load_config(f"{path}{end}").seed for end in ("", ":", ":four", ":a:b")] == [3, 0, 4, 3]
    with pytest.raises(
        ConfigError, match=r"digits\.py: get_config does not take one argument, but '3' is given.*leave it"
    ):
        load_config("digits:3")


def test_a_config_may_define_dataclasses_and_be_frozen(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from __future__ import annotations\nimport dataclasses\nimport ml_collections\n"
        + MODULE
        + "@dataclasses.dataclass\nclass Size:\n    depth: int = 8\n\n"
        "def get_config():\n    return ml_collections.FrozenConfigDict(default_config())"
    )
    config = load_config(path)
    config.model.depth = 8  # as a flag does
    validate(config)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.py"]


def test_what_is_no_config_is_not_run(tmp_path):
    (tmp_path / "setup.py").write_text("raise SystemExit('run')")
    with pytest.raises(ConfigError, match="has no function get_config"):
        load_config(tmp_path / "setup.py")


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_loads_is_valid_and_is_fresh(name):
    config = load_config(name)
    validate(config)
    config.num_epochs += 1
    assert load_config(name).num_epochs == config.num_epochs - 1


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_says_its_command_accuracy_time_and_hardware(name):
    text = shipped_configs()[name].read_text()
    assert f"\n    qresnet --config={name}\n" in text
    assert all(f"\n{word}: " in text for word in ("Accuracy", "Time", "Hardware"))


FLOAT = {"model.weight_bits", "model.activation", "optim.weight_decay", "optim.float_epochs"}


@pytest.mark.parametrize(
    ("twin", "of", "differing"),
    [
        ("fashion_mnist_fp32", "fashion_mnist_w1a2", FLOAT),
        ("cifar10_fp32", "cifar10_w1a2", FLOAT),
        ("cifar10_jpeg_w1a2", "cifar10_w1a2", {"data.name", "data.raw_dir"}),
        ("cifar10_jpeg_fp32", "cifar10_jpeg_w1a2", FLOAT),
        ("cifar100_w1a2", "cifar10_w1a2", {"data.name", "model.num_classes"}),
    ],
)
def test_a_config_differs_from_its_twin_as_its_docstring_says(twin, of, differing):
    fields, others = (flatten(load_config(name)) for name in (twin, of))
    assert {name for name in fields if fields[name] != others[name]} == differing


@pytest.mark.parametrize("epochs", [400, 30, 1])
def test_half_of_the_epochs_are_float_however_many_there_are(epochs):
    config = load_config("cifar10_w1a2")
    config.num_epochs = epochs
    assert config.optim.float_epochs == epochs // 2
    config.optim.float_epochs = 0
    config.num_epochs = 10 * epochs
    assert flatten(config)["optim.float_epochs"] == 0


def test_it_is_a_public_name():
    assert qresnet_jax.load_config is load_config


def test_a_config_in_the_home_directory_is_found_by_a_tilde(home):
    (home / "mine.py").write_text((CHECKOUT / "configs" / "digits.py").read_text())
    assert find_config("~/mine.py") == home / "mine.py"
    assert load_config("~/mine.py").model.depth == load_config("digits").model.depth
