"""The command line: `qresnet`, `python -m qresnet_jax`, and `python main.py` in a checkout.

It reads the flags, runs one of `commands.COMMANDS`, and turns a mistake into one line and an exit status.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from qresnet_jax import config as configs
from qresnet_jax.commands import COMMANDS
from qresnet_jax.commands.help import help_text
from qresnet_jax.errors import ConfigError, UserError
from qresnet_jax.system.aborts import keep_native_output
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
# Of a sweep alone. They have no defaults, so that other modes can refuse them.
SWEEP = {
    "seeds": flags.DEFINE_string("seeds", None, "For a sweep: a number of seeds, or a list of them."),
    "grid": flags.DEFINE_multi_string("grid", None, "For a sweep: config.FIELD=VALUE,VALUE,..."),
    "together": flags.DEFINE_string("together", None, "For a sweep: how many runs at once, or auto."),
}


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
    mode = _mode(argv[1:])
    if CONFIG.value is None:
        raise UserError(f"no config is given: {how_to_name_a_config()}")
    config = CONFIG.value
    options = _options(mode)
    if mode != "sweep":  # a sweep validates each of its members
        configs.validate(config)
    command = COMMANDS[mode]
    if config.packed and not command.takes_packed:
        raise UserError(f"--config.packed has no use in --mode={mode}: leave it out")
    if configs.has_processes(config) and (config.packed or not command.takes_processes):
        what = "with --config.packed" if config.packed else f"in --mode={mode}"
        raise UserError(f"--config.distributed has no use {what}, as one process does it: leave it out")
    if command.trains:
        restart_with_large_pages()  # first, as everything before it is done twice
    if configs.has_processes(config):
        keep_native_output()
    log_to_standard_output()
    if mode != "prepare_data":
        cache_compilations()
    name = find_config(_name_of_config()).stem + ("_sweep" if mode == "sweep" else "")
    command(config, WORKDIR.value or os.path.join("runs", name), **options)


def _mode(words: Sequence[str]) -> str:
    """Returns the mode: `qresnet sweep` is `qresnet --mode=sweep`, and so for the others."""
    if words and words[0] not in COMMANDS:
        raise UserError(f"unexpected argument {words[0]!r}: options begin with --, see --help")
    if len(words) > 1 or (words and MODE.present and words[0] != MODE.value):
        others = [*words[1:], *([f"--mode={MODE.value}"] if MODE.present else [])]
        raise UserError(f"{words[0]} is given as the mode, but also {others[0]}: leave one of them out")
    return words[0] if words else MODE.value


def _options(mode: str) -> dict[str, Any]:
    """Returns what the command takes beside config and workdir."""
    options = {name: flag.value for name, flag in SWEEP.items()}
    if mode == "sweep":
        return {**options, "given": config_flags.get_override_values(flags.FLAGS["config"])}
    for name, value in options.items():
        if value is not None:
            raise UserError(
                f"--{name} has no use in --mode={mode}: leave it out, or begin with qresnet sweep"
            )
    return {}


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
    given = (re.match(r"--?(?:no)?config\.([^=]*)", word) for word in argv)
    messages = (
        configs.unknown_field(match.group(1), "a field given as --config.FIELD") for match in given if match
    )
    return next(filter(None, messages), "")


def _terminated(*_: object) -> NoReturn:
    """Ends the process as SIGTERM would, but unfinished files are deleted first."""
    sys.exit(128 + signal.SIGTERM)


def run() -> None:
    """Runs the command; exits with 0 when done, 2 after a user's mistake, 130 after Ctrl-C, or 143 after SIGTERM."""
    ignore_abandoned_tasks()
    signal.signal(signal.SIGTERM, _terminated)
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
