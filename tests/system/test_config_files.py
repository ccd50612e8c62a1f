"""Config files are found by name or by path, and loaded."""

import pathlib

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


@pytest.mark.parametrize(
    ("twin", "of", "differing"),
    [
        ("fashion_mnist_fp32", "fashion_mnist_w1a2", {"model.weight_bits", "model.activation"}),
        ("cifar10_fp32", "cifar10_w1a2", {"model.weight_bits", "model.activation", "optim.weight_decay"}),
        ("cifar100_w1a2", "cifar10_w1a2", {"data.name", "model.num_classes"}),
    ],
)
def test_a_config_differs_from_its_twin_as_its_docstring_says(twin, of, differing):
    fields, others = (flatten(load_config(name)) for name in (twin, of))
    assert {name for name in fields if fields[name] != others[name]} == differing


def test_it_is_a_public_name():
    assert qresnet_jax.load_config is load_config
