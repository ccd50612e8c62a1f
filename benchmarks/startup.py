"""Measures what compilation adds to a short training: the quick start with one epoch, with a cold and a warm cache.

    python benchmarks/startup.py [--rounds=3] [--save]

Each round makes an empty cache and runs the command twice: the first run compiles its programs, and the second one finds them. The time is
that of the whole process, from the command to the report.
"""

import argparse
import pathlib
import sys
import tempfile

from children import process_seconds
from results import REPO, add_save_option, measured, save, spread

from qresnet_jax.system.machine import processors

NAME = "startup"
COMMAND = (sys.executable, REPO / "main.py", "--config=digits", "--config.num_epochs=1")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    add_save_option(parser, NAME)
    args = parser.parse_args()
    times = {"cold": [], "warm": []}
    for _ in range(args.rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for which, found in times.items():
                found.append(process_seconds([*COMMAND, f"--workdir={folder / which}"], folder))
                print(f"{which} {found[-1]:.1f} s", flush=True)
    figures = {which: spread(found) for which, found in times.items()}
    if args.save:
        key = "quick start, 1 epoch"
        print("wrote", save(NAME, key, measured(figures, cores=processors()), args.save))


if __name__ == "__main__":
    main()
