"""Finds and loads config files: those that ship with the package by name, and all others by path."""

import contextlib
import inspect
import os
import pathlib
import sys
import sysconfig
import traceback
import types
from collections.abc import Callable, Iterator, Sequence

from ml_collections import ConfigDict, FrozenConfigDict

from qresnet_jax.errors import ConfigError
from qresnet_jax.system.files import as_path

_PACKAGE = pathlib.Path(__file__).parents[1]
_NO_FUNCTION = "{} is no config, as it has no function get_config: {}"


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
        current directory that has the name of a shipped config needs its directory: "./digits". What follows a colon
        is an argument of the config, and is ignored here.

    Raises:
      ConfigError: there is no such config, or the file has no function `get_config`.
    """
    name, _, _ = os.fspath(name).partition(":")
    if not name:
        raise ConfigError(f"no config is given: {how_to_name_a_config()}")
    shipped = shipped_configs()
    if name in shipped:
        return shipped[name]
    path = as_path(name)
    if not path.is_file():
        raise ConfigError(f"there is no config file {name}: {how_to_name_a_config()}")
    with errors_of(path):
        text = path.read_bytes()
    if b"get_config" not in text:  # what is no config, such as setup.py, is not run
        raise ConfigError(_NO_FUNCTION.format(path, how_to_name_a_config()))
    return path


def load_config(name: str | os.PathLike[str]) -> ConfigDict:
    """Returns a new config from a config file; it can be changed and given to `train_and_evaluate`.

    Args:
      name: the name of a config that ships with the package, such as "digits", or the path of a file. What follows a
        colon is given to the file's function `get_config` as its argument: "sweep.py:small" calls `get_config("small")`.

    Raises:
      ConfigError: there is no such config; the file has no function `get_config`, or one that returns no config or
        takes other arguments; or the file raises an error, which the message names with its file and line.

    Examples:
      >>> config = load_config("digits")
      >>> config.num_epochs = 2
    """
    path = find_config(name)
    arguments = os.fspath(name).split(":", 1)[1:]
    module = types.ModuleType(f"config_file_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and pickle look for it
    with errors_of(path):
        exec(compile(path.read_bytes(), path, "exec", dont_inherit=True), vars(module))
    get_config = vars(module).get("get_config")
    if not callable(get_config):
        raise ConfigError(_NO_FUNCTION.format(path, how_to_name_a_config()))
    _check_arguments(path, get_config, arguments)
    with errors_of(path):
        config = get_config(*arguments)
    if not isinstance(config, ConfigDict):
        came = "nothing" if config is None else f"a {type(config).__name__}"
        raise ConfigError(
            f"{path}: get_config returned {came}, but a config is expected: begin with "
            "config = qresnet_jax.default_config(), and end with return config"
        )
    with errors_of(path):
        config.to_dict()  # computes the fields that refer to others
        return (
            ConfigDict(config) if isinstance(config, FrozenConfigDict) else config
        )  # which flags can change


def _check_arguments(path: pathlib.Path, get_config: Callable[..., object], arguments: Sequence[str]) -> None:
    try:
        inspect.signature(get_config).bind(*arguments)
    except TypeError:
        if arguments:
            raise ConfigError(
                f"{path}: get_config does not take one argument, but {arguments[0]!r} is given after the colon: leave "
                f"it out, as in --config={path}"
            ) from None
        raise ConfigError(
            f"{path}: get_config needs an argument: give it after a colon, as in --config={path}:ARGUMENT"
        ) from None


@contextlib.contextmanager
def errors_of(path: pathlib.Path) -> Iterator[None]:
    """Turns whatever a config file raises into one line, with the file, the line and the error.

    Args:
      path: the path of the config file.

    Raises:
      ConfigError: the code inside the `with` raised anything but an interruption from the keyboard.
    """
    try:
        yield
    except (Exception, SystemExit) as error:
        places = _places(path, error)
        text = error.msg if isinstance(error, SyntaxError) else str(error).replace("\\n", " ")
        if isinstance(error, ConfigError):  # of a config that this one loads
            if places[0] in text:  # they load each other
                raise
            parts = [*places, text]
        else:
            parts = [*places, type(error).__name__, text]
        raise ConfigError(": ".join(" ".join(part.split()) for part in parts if part)) from error


def _places(path: pathlib.Path, error: BaseException) -> list[str]:
    """Returns the line of the config file where an error arose and, if that is deeper, the line of another file.

    The other file is one that the config imports. The files of Python, of installed packages, and of this package do not
    count, since the mistake is not there.
    """
    places: list[tuple[str, int | None]] = [
        (frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if isinstance(error, SyntaxError) and error.filename and os.path.exists(error.filename):
        places.append((error.filename, error.lineno))
    folders = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    libraries = (*folders, str(_PACKAGE), "<")
    users = [p for p in places if p[0] == str(path) or not p[0].startswith(libraries)]
    own = [p for p in users if p[0] == str(path)][-1:] or [(str(path), None)]
    deepest = [p for p in users[-1:] if p not in own]
    return [f"{file}, line {line}" if line else file for file, line in own + deepest]
