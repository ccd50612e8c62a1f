"""The command line: `qresnet`, `python -m qresnet_jax`, and `python main.py` in a checkout.

It reads the flags, runs one of `commands.COMMANDS`, and turns a mistake into one line and an exit status.
"""

import itertools
import os
import pathlib
import sys
import threading

from absl import app, flags
from ml_collections import config_flags

from qresnet_jax import config as configs
from qresnet_jax.commands import COMMANDS
from qresnet_jax.commands.help import help_text
from qresnet_jax.errors import UserError
from qresnet_jax.system.cache import cache_compilations
from qresnet_jax.system.config_files import find_config, how_to_name_a_config
from qresnet_jax.system.process import (
    ignore_abandoned_reads,
    log_to_standard_output,
    restart_with_large_pages,
)

CONFIG = config_flags.DEFINE_config_file(
    "config", None, "The name of a shipped config, or the path of a file."
)
WORKDIR = flags.DEFINE_string("workdir", None, "The directory of the run; by default runs/NAME.")
MODE = flags.DEFINE_enum("mode", "train", list(COMMANDS), "What to do.")

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
    if MODE.value == "train":
        restart_with_large_pages()  # first, as everything before it is done twice
    log_to_standard_output()
    if MODE.value != "prepare_data":
        cache_compilations()
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS["config"])).stem
    command(config, WORKDIR.value or os.path.join("runs", name))


def parse(argv: list[str]) -> list[str]:
    """Reads the flags and returns the remaining arguments; for `--help` it prints the help and exits.

    Raises:
      UserError: a flag, a config or a config field does not exist or cannot be read.
    """
    if _HELP & set(argv[1:]):
        print(help_text(), end="")
        sys.exit(0)
    argv = _with_paths_of_configs(argv)
    try:
        rest = flags.FLAGS(argv)
        if CONFIG.value is not None:
            CONFIG.value.items()  # a config file that failed to load raises its error at the first use
        return rest
    except (AttributeError, KeyError, IndexError) as error:
        # ml_collections raises these for a field that does not exist.
        text = (
            str(error)
            .replace("\\n", ". ")
            .replace("\n", ". ")
            .replace("\\", "")
            .replace("'", "")
            .replace('"', "")
        )
        hint = "; a tuple is given whole, as in --config.model.act_bits='(2,2,4)'" if "index" in text else ""
        raise UserError(f"a field given as --config.FIELD does not exist: {text}{hint}") from error
    except (flags.Error, TypeError, ValueError, OSError, SyntaxError, ImportError) as error:
        raise UserError(" ".join(str(error).split())) from error


def _with_paths_of_configs(argv: list[str]) -> list[str]:
    """Replaces the name of a config by its path; keeps what follows a colon, which ml_collections gives the config."""

    def with_path(value: str) -> str:
        name, colon, argument = value.partition(":")
        if not name:
            raise UserError(f"no config is given: {how_to_name_a_config()}")
        return f"{find_config(name)}{colon}{argument}"

    replaced = argv[:1]
    for before, flag in itertools.pairwise(argv):
        if flag.startswith(("--config=", "-config=")):  # absl takes one dash or two
            flag = f"--config={with_path(flag.partition('=')[2])}"
        elif before in ("--config", "-config"):
            flag = with_path(flag)
        replaced.append(flag)
    return replaced


def run() -> None:
    """Runs the command and exits with 0 when done, 2 after a user's mistake, or 130 after an interruption."""
    ignore_abandoned_reads()
    try:
        app.run(main, flags_parser=parse)
    except SystemExit as done:
        sys.exit(0 if _HELP_OF_ABSL & set(sys.argv) else done.code)  # absl exits with 1 after its help
    except UserError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.stdout.flush()
        if threading.active_count() > 1:
            os._exit(2)  # at a normal exit, reads that Orbax has begun in other threads print errors
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    run()
