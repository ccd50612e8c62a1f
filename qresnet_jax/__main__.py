"""The command line: `qresnet`, `python -m qresnet_jax`, and `python main.py` in a checkout.

It reads the flags, runs one of `commands.COMMANDS`, and turns a mistake into one line and an exit status.
"""

import difflib
import os
import re
import sys
import threading
from collections.abc import Sequence

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from qresnet_jax import config as configs
from qresnet_jax.commands import COMMANDS
from qresnet_jax.commands.help import help_text
from qresnet_jax.errors import ConfigError, UserError
from qresnet_jax.system.cache import cache_compilations
from qresnet_jax.system.config_files import errors_of, find_config, how_to_name_a_config, load_config
from qresnet_jax.system.process import (
    ignore_abandoned_tasks,
    log_to_standard_output,
    restart_with_large_pages,
)

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The name of a shipped config, or the path of a file."
)
WORKDIR = flags.DEFINE_string("workdir", None, "The directory of the run; by default runs/NAME.")
MODE = flags.DEFINE_enum("mode", "train", list(COMMANDS), "What to do.")


class _ConfigParser(flags.ArgumentParser):
    """Loads the config of a flag by `load_config`, whose messages name the line of a mistake."""

    def parse(self, path: str) -> ConfigDict:
        try:
            return load_config(path)
        except ConfigError as error:  # absl would put the flag's name before a ValueError
            raise UserError(str(error)) from error


flags.FLAGS["config"].parser = _ConfigParser()

_HELP = {"--help", "-help", "-h", "-?", "--helpshort", "-helpshort"}
_HELP_OF_ABSL = {"--helpfull", "-helpfull", "--helpxml", "-helpxml"}


def main(argv: list[str]) -> None:
    """Runs the chosen mode.

    Raises:
      UserError: the mode refuses what it was given; the message says how to correct it.
    """
    if len(argv) > 1:
        raise UserError(f"unexpected argument {argv[1]!r}: options begin with --, see --help")
    if CONFIG.value is None:
        raise UserError(f"no config is given: {how_to_name_a_config()}")
    config = CONFIG.value
    configs.validate(config)
    command = COMMANDS[MODE.value]
    if config.packed and not command.takes_packed:
        raise UserError(f"--config.packed has no use in --mode={MODE.value}: leave it out")
    if command.trains:
        restart_with_large_pages()  # first, as everything before it is done twice
    log_to_standard_output()
    if MODE.value != "prepare_data":
        cache_compilations()
    command(config, WORKDIR.value or os.path.join("runs", find_config(_name_of_config()).stem))


def parse(argv: list[str]) -> list[str]:
    """Reads the flags and returns the remaining arguments; for `--help` it prints the help and exits.

    Raises:
      UserError: a flag, a config or a config field does not exist or cannot be read.
    """
    if _HELP & set(argv[1:]):
        print(help_text(), end="")
        sys.exit(0)
    try:
        rest = flags.FLAGS(argv)
    except (flags.Error, AttributeError, LookupError, TypeError, ValueError, OSError) as error:
        # ml_collections answers a field that does not exist by many kinds of errors.
        raise UserError(_unknown_field(argv) or " ".join(str(error).split())) from error
    if CONFIG.value is not None:
        with errors_of(find_config(_name_of_config())):
            CONFIG.value.to_dict()  # computes the fields that refer to others, which flags may have changed
    return rest


def _name_of_config() -> str:
    return config_flags.get_config_filename(flags.FLAGS["config"])


def _unknown_field(argv: Sequence[str]) -> str:
    """Returns a message about the first flag --config.FIELD whose field does not exist; "" if all exist."""
    fields = list(configs.flatten(configs.default_config()))
    sections = {name[:i] for name in fields for i, char in enumerate(name) if char == "."}
    given = (re.match(r"--?(?:no)?config\.([^=]*)", word) for word in argv)
    names = [m.group(1) for m in given if m and m.group(1) not in sections.union(fields)]
    if not names:
        return ""
    name = names[0]
    section = name.rpartition(".")[0] + "."
    inside = {field.removeprefix(section): field for field in fields if field.startswith(section)}
    # Without its section, or with a misspelt one, a field is looked for by its whole name and by the last part of it.
    every = {field.rpartition(".")[2]: field for field in fields} | {field: field for field in fields}
    wanted, cutoff = (name.removeprefix(section), 0.5) if inside else (name, 0.7)
    close = difflib.get_close_matches(wanted, inside or every, 1, cutoff)
    if "[" in name:
        hint = "; a tuple is given whole, as in --config.model.act_bits='(2,2,4)'"
    elif close:
        hint = f". Did you mean {(inside or every)[close[0]]} instead of {name}?"
    else:
        hint = f"; the fields are {', '.join(inside.values() or fields)}"
    return f"a field given as --config.FIELD does not exist: {name}{hint}"


def run() -> None:
    """Runs the command and exits with 0 when done, 2 after a user's mistake, or 130 after an interruption."""
    ignore_abandoned_tasks()
    try:
        app.run(main, flags_parser=parse)
    except SystemExit as done:
        sys.exit(0 if _HELP_OF_ABSL & set(sys.argv) else done.code)  # absl exits with 1 after its help
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        if threading.active_count() > 1:
            os._exit(2)  # at a normal exit, what Orbax has begun in other threads prints errors
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
