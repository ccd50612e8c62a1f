"""Composes the text of `--help`."""

import textwrap

from qresnet_jax.commands import COMMANDS
from qresnet_jax.config import fields
from qresnet_jax.system.config_files import shipped_configs

WIDTH = 100

_HEAD = """\
Trains ResNets and other networks with 1-bit weights and low-bit activations, and ships them as integers.

Usage:
  qresnet --config=CONFIG [--mode=MODE] [--workdir=DIR] [--config.FIELD=VALUE ...]
  qresnet sweep --config=CONFIG [--workdir=DIR] [--seeds=SEEDS] [--grid config.FIELD=VALUE,VALUE ...] [...]

`python -m qresnet_jax` and, in a checkout, `python main.py` are the same command;
`python -m qresnet_jax.sweep` is `qresnet sweep`.

Options:
"""

_FOOT = """\
Exit status: 0 when the work is done, and after SIGTERM or Ctrl-C when everything is saved; 2 after a mistake that
you can correct, with one line that says how; 130 when Ctrl-C, and 143 when SIGTERM, stops the command before that.
"""


def help_text() -> str:
    """Returns the text of `--help`: the options, then each mode with what it does, what it writes, and examples."""
    of_runs = [name for name, command in COMMANDS.items() if not command.takes_packed]
    options = [
        (
            "--config=CONFIG",
            f"The name of a config that ships with the package ({', '.join(shipped_configs())}), or the path of a "
            "Python file that defines get_config().",
        ),
        (
            "--mode=MODE",
            f"One of {', '.join(COMMANDS)}; train by default. `qresnet MODE --config=CONFIG` is the same.",
        ),
        (
            "--workdir=DIR",
            "The directory of the run; by default runs/NAME, where NAME is the name of the config.",
        ),
        (
            "--config.FIELD=VALUE",
            "Changes a field of the config, as in --config.num_epochs=2 or --config.model.act_bits='(2,2,4)'. "
            f"All fields, with their defaults and meanings, are listed in {fields.__file__}.",
        ),
        (
            "--config.packed=FILE",
            "A packed file, or the name of a network in the zoo, to work on instead of a run. The modes "
            f"{', '.join(of_runs[:-1])} and {of_runs[-1]} do not take it.",
        ),
        (
            "--seeds, --grid, --together",
            "Of a sweep, see below. --together=4 trains four runs at once, on one device each; auto, the default, trains "
            "one after the other on a CPU or a single accelerator.",
        ),
        (
            "--config.distributed",
            "Several processes work on one run. Each is given --config.distributed.coordinator=HOST:PORT of process 0, "
            "--config.distributed.num_processes=N and --config.distributed.process_id=I; or "
            "--config.distributed.auto=True under SLURM, Open MPI or Kubernetes, or on a Cloud TPU. The modes "
            f"{' and '.join(name for name, command in COMMANDS.items() if command.takes_processes)} take this.",
        ),
        ("--help", "Prints this text; --helpfull prints the flags of all libraries."),
    ]
    indent = 2 + max(len(name) for name, _ in options) + 2
    parts = [_HEAD, *(_entry(name, text, indent) for name, text in options), "\nModes:\n"]
    for name, command in COMMANDS.items():
        parts += [_entry(name, command.does, 16), _entry("", command.writes, 16)]
        parts += [f"{' ' * 18}qresnet {example}\n" for example in command.examples]
        parts += ["\n"]
    return "".join([*parts, textwrap.fill(_FOOT, WIDTH), "\n"])


def _entry(name: str, text: str, indent: int) -> str:
    lines = textwrap.fill(
        text, WIDTH, initial_indent=" " * indent, subsequent_indent=" " * indent, break_long_words=False
    )
    return f"  {name}".ljust(indent) + lines[indent:] + "\n"
