"""Measures how soon a fresh Python process predicts, and how large an environment is that only predicts.

    python benchmarks/prediction.py [--rounds=15] [--save]

It makes a virtual environment with this package, NumPy and safetensors and nothing else, and starts a process there for each turn:
it loads the packed file of the zoo's Fashion-MNIST network and classifies one image. The time is that of the whole process, and
the engines take turns. The C engine has been compiled by a process before. The processes of `bare` do nothing but import NumPy.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile

from children import process_seconds
from results import REPO, add_save_option, measured, save, spread

from qresnet_jax.system.machine import processors

NAME = "prediction"
PACKAGES = ("numpy", "safetensors")
PREDICT = """
import numpy as np
from qresnet_jax import load_packed
load_packed("fashion_mnist_resnet20_w1a2", engine={engine!r}).predict(np.zeros((1, 28, 28, 1), np.uint8))
"""
PROGRAMS = {"c": PREDICT.format(engine="c"), "numpy": PREDICT.format(engine="numpy"), "bare": "import numpy"}
SECONDS = 600  # for an installation


def environment(folder: pathlib.Path) -> pathlib.Path:
    """Makes the virtual environment, and returns its Python."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True, timeout=SECONDS)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet"]
    constraints = ["--constraint", REPO / "constraints.txt"]
    subprocess.run([*pip, *constraints, *PACKAGES], check=True, timeout=SECONDS)
    subprocess.run([*pip, "--no-deps", REPO], check=True, timeout=SECONDS)
    return python


def installed_bytes(python: pathlib.Path) -> dict[str, int]:
    """Returns the bytes of the files of each package, without what pip itself takes."""
    (site,) = (python.parents[1] / "lib").glob("python*/site-packages")
    names = {name: [name] for name in (*PACKAGES, "qresnet_jax")}
    names["numpy"].append("numpy.libs")
    return {
        name: sum(
            path.stat().st_size for part in parts for path in (site / part).rglob("*") if path.is_file()
        )
        for name, parts in names.items()
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    add_save_option(parser, NAME)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        cache = pathlib.Path(name)
        python = environment(cache / "environment")
        for program in PROGRAMS.values():
            process_seconds([python, "-c", program], cache)  # compiles
        times = {which: [] for which in PROGRAMS}
        for _ in range(args.rounds):
            for which, program in PROGRAMS.items():
                times[which].append(process_seconds([python, "-c", program], cache))
        figures = {which: spread(found) for which, found in times.items()} | {
            "bytes": installed_bytes(python)
        }
    for which in PROGRAMS:
        print(f"{which:6s} median {figures[which]['median']:.3f} s, min {figures[which]['min']:.3f} s")
    print({name: f"{nbytes / 1e6:.1f} MB" for name, nbytes in figures["bytes"].items()})
    if args.save:
        print(
            "wrote",
            save(NAME, "prediction", measured(figures, cores=processors()), args.save),
        )


if __name__ == "__main__":
    main()
