"""Finds config files: those that ship with the package by name, and all others by path."""

import os
import pathlib
import runpy

from ml_collections import ConfigDict

from qresnet_jax.errors import ConfigError

_PACKAGE = pathlib.Path(__file__).parents[1]


def shipped_configs() -> dict[str, pathlib.Path]:
    """Returns the config files that ship with the package, by name.

    An installed package has them inside itself, in `qresnet_jax/configs`; a checkout has them beside it, in `configs`.
    """
    inside, beside = _PACKAGE / "configs", _PACKAGE.parent / "configs"
    directory = inside if inside.is_dir() else beside
    return {path.stem: path for path in sorted(directory.glob("*.py"))}


def how_to_name_a_config() -> str:
    """Returns the advice that ends each message about a missing config."""
    return (
        f"give the path of a config file, or the name of one that ships with the package "
        f"({', '.join(shipped_configs())}), as in --config=digits"
    )


def find_config(name: str | os.PathLike[str]) -> pathlib.Path:
    """Returns the path of a config file.

    Args:
      name: the name of a config that ships with the package, such as "digits", or the path of a file. A file of the
        current directory that has the name of a shipped config needs its directory: "./digits".

    Raises:
      ConfigError: there is no such config, or the file has no function `get_config`.
    """
    shipped = shipped_configs()
    if str(name) in shipped:
        return shipped[str(name)]
    path = pathlib.Path(name)
    if not path.is_file():
        raise ConfigError(f"there is no config file {name}: {how_to_name_a_config()}")
    if "get_config" not in path.read_text(errors="replace"):
        raise ConfigError(f"{name} is no config, as it has no function get_config: {how_to_name_a_config()}")
    return path


def load_config(name: str | os.PathLike[str]) -> ConfigDict:
    """Returns a new config from a config file; it can be changed and given to `train_and_evaluate`.

    Args:
      name: the name of a config that ships with the package, such as "digits", or the path of a file.

    Raises:
      ConfigError: there is no such config, or the file has no function `get_config`.

    Examples:
      >>> config = load_config("digits")
      >>> config.num_epochs = 2
    """
    return runpy.run_path(str(find_config(name)))["get_config"]()
