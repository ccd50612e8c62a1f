"""Writes and reads result files, which say what a benchmark measured and under which circumstances.

`benchmarks/results/NAME.json` holds one or more measurements, each under a key that says what was measured:

    {"schema": 1, "name": "train_step", "measurements": {"1 thread": {...}, "2 threads": {...}}}

A measurement has these fields:

    source    "measured", or "transcribed from README.md at commit bf53072" for a figure that is older than these files
    date      of the measurement, in ISO form (2026-11-29)
    command   the commands that were run, a list of strings
    machine   `cpu`, `cores` that were used, `memory_gib`, `gpu` (None if none was used), `os`
    versions  of Python, libraries and the C compiler; None if a library is not installed
    commit    of the repository, None outside a git checkout
    dirty     whether the source code differed from that commit
    figures   the results; times are in seconds, sizes in bytes, accuracies between 0 and 1

A new measurement replaces the one with the same key and leaves the others alone. Only the standard library is needed.
"""

import argparse
import datetime
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping

from qresnet_jax.system.files import write_all

SCHEMA = 1
REPO = pathlib.Path(__file__).resolve().parents[1]
FOLDER = REPO / "benchmarks" / "results"
MEASURED = "measured"
LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "onnxruntime", "torch")
COMPILERS = ("gcc", "clang", "arm-none-eabi-gcc")
# Environment variables that change what is measured; a result names them in its command.
ENVIRONMENT = ("GLIBC_TUNABLES", "JAX_NUM_CPU_DEVICES", "XLA_FLAGS", "JAX_DEFAULT_MATMUL_PRECISION")

MEASUREMENT = {  # field -> the types that it may have
    "source": (str,),
    "date": (str,),
    "command": (list,),
    "machine": (dict,),
    "versions": (dict,),
    "commit": (str, type(None)),
    "dirty": (bool, type(None)),
    "figures": (dict,),
}
MACHINE = {
    "cpu": (str, type(None)),
    "cores": (int, type(None)),
    "memory_gib": (int, float, type(None)),
    "gpu": (str, type(None)),
    "os": (str, type(None)),
}


class ResultError(Exception):
    """A result file, or a document that shows it, is wrong; the message says what to do."""


# The content of a file.


def record(
    figures: Mapping,
    *,
    command: Iterable[str],
    machine: Mapping,
    versions: Mapping,
    date: str,
    commit: str | None,
    dirty: bool | None,
    source: str = MEASURED,
) -> dict:
    """Returns a measurement with the fields that the module's docstring lists."""
    return {
        "source": source,
        "date": date,
        "command": list(command),
        "machine": dict(machine),
        "versions": dict(versions),
        "commit": commit,
        "dirty": dirty,
        "figures": dict(figures),
    }


def with_measurement(document: Mapping | None, name: str, key: str, measurement: Mapping) -> dict:
    """Returns a document with one measurement added, or replaced if the key is known. None is an empty document."""
    measurements = dict(document["measurements"]) if document else {}
    return {"schema": SCHEMA, "name": name, "measurements": measurements | {key: measurement}}


def check(document, name: str) -> None:
    """Checks the content of `benchmarks/results/NAME.json`.

    Raises:
      ResultError: if a field is missing, unknown or of the wrong type, or if a number is not finite. The message names it.
    """
    file = f"{name}.json"
    _check_fields(document, {"schema": (int,), "name": (str,), "measurements": (dict,)}, file)
    if document["schema"] != SCHEMA:
        raise ResultError(
            f"{file} has schema {document['schema']}, but this version reads schema {SCHEMA}: measure again"
        )
    if document["name"] != name:
        raise ResultError(f"{file} says that its name is {document['name']!r}: rename the file or the field")
    if not document["measurements"]:
        raise ResultError(f"{file} has no measurements: run the benchmark with --save, or delete the file")
    for key, measurement in document["measurements"].items():
        where = f"{file}, measurement {key!r}"
        _check_fields(measurement, MEASUREMENT, where)
        _check_fields(measurement["machine"], MACHINE, f"{where}, machine")
        try:
            datetime.date.fromisoformat(measurement["date"])
        except ValueError:
            raise ResultError(
                f"{where}: date is {measurement['date']!r}, expected a day such as '2026-11-29'"
            ) from None
        if not all(isinstance(line, str) for line in measurement["command"]) or not measurement["command"]:
            raise ResultError(f"{where}: command is {measurement['command']!r}, expected a list of strings")
        for library, version in measurement["versions"].items():
            if not isinstance(version, str | None):
                raise ResultError(f"{where}: the version of {library} is {version!r}, expected a string")
        _check_numbers(measurement["figures"], f"{where}, figures")


def _check_fields(value, fields, where):
    if not isinstance(value, dict):
        raise ResultError(f"{where}: expected an object with the fields {', '.join(fields)}, got {value!r}")
    if missing := [name for name in fields if name not in value]:
        raise ResultError(f"{where} lacks {', '.join(missing)}: measure again")
    if unknown := [name for name in value if name not in fields]:
        raise ResultError(f"{where} has the unknown field {', '.join(unknown)}; known: {', '.join(fields)}")
    for name, kinds in fields.items():
        is_bool = isinstance(value[name], bool) and bool not in kinds  # bool is a kind of int in Python
        if is_bool or not isinstance(value[name], kinds):
            expected = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
            raise ResultError(f"{where}: {name} is {value[name]!r}, expected {expected}")


def _check_numbers(value, where):
    if isinstance(value, dict):
        for name, part in value.items():
            _check_numbers(part, f"{where}.{name}")
    elif isinstance(value, list):
        for i, part in enumerate(value):
            _check_numbers(part, f"{where}[{i}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ResultError(f"{where} is {value}, expected a finite number: measure again")


# Files.


def load(name: str, folder: pathlib.Path = FOLDER) -> dict:
    """Reads and checks a result file.

    Raises:
      ResultError: if it does not exist, if it is not JSON, or if `check` refuses its content.
    """
    path = pathlib.Path(folder) / f"{name}.json"
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ResultError(f"there is no result file {path}: run the benchmark with --save") from None
    except ValueError as error:
        raise ResultError(f"{path} is not JSON ({error}): restore it from git, or measure again") from error
    check(document, name)
    return document


def save(
    name: str, key: str, measurement: Mapping, folder: pathlib.Path = FOLDER, *, instead_of: str | None = None
) -> pathlib.Path:
    """Adds a measurement to a result file, or replaces the one with its key, and returns the file's path.

    A measurement with the key `instead_of` is left out from then on.

    Raises:
      ResultError: if the existing file or the new measurement is wrong; nothing is written then.
    """
    path = pathlib.Path(folder) / f"{name}.json"
    document = with_measurement(load(name, folder) if path.exists() else None, name, key, measurement)
    document["measurements"].pop(instead_of, None)
    check(document, name)
    text = json.dumps(document, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
    write_all({path: text.encode()})
    return path


def save_all(name: str, figures: Mapping[str, Mapping], cores: int, folder: pathlib.Path) -> pathlib.Path:
    """Saves figures that were measured just now on this machine, by key; returns the file's path (see `save`)."""
    for key, of_key in figures.items():
        save(name, key, measured(of_key, cores=cores), folder)
    return pathlib.Path(folder) / f"{name}.json"


# What a benchmark adds to its figures.


def add_save_option(parser: argparse.ArgumentParser, name: str) -> None:
    """Gives a benchmark the option `--save[=DIR]`. Without it a benchmark writes nothing."""
    parser.add_argument(
        "--save",
        nargs="?",
        const=FOLDER,
        type=pathlib.Path,
        metavar="DIR",
        help=f"write the figures to DIR/{name}.json, by default to benchmarks/results/{name}.json; "
        "`make tables` then renders the documents from it",
    )


def spread(values: Iterable[float]) -> dict:
    """Returns median, minimum, maximum and number of repeated measurements."""
    values = [float(value) for value in values]
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "rounds": len(values),
    }


def measured(figures: Mapping, *, cores: int, gpu: str | None = None) -> dict:
    """Returns the measurement of this process: figures, command, machine, versions, today's date and the commit."""
    return record(
        figures,
        command=[command_line(sys.argv, os.environ)],
        machine=this_machine(cores, gpu),
        versions=this_versions(),
        date=datetime.date.today().isoformat(),
        **this_commit(),
    )


def command_line(argv: list[str], environment: Mapping[str, str]) -> str:
    """Returns the command as it is typed in the repository's root, without `--save`."""
    settings = [f"{name}={shlex.quote(environment[name])}" for name in ENVIRONMENT if environment.get(name)]
    script, *arguments = argv
    kept, skip = [], False
    for argument in arguments:
        if skip and not argument.startswith("-"):
            skip = False  # the folder after a bare --save
            continue
        skip = argument == "--save"
        if not argument.startswith("--save"):
            kept.append(shlex.quote(argument))
    return " ".join([*settings, "python", f"benchmarks/{pathlib.Path(script).name}", *kept])


def this_machine(cores: int, gpu: str | None = None) -> dict:
    """Describes this machine; `cores` and `gpu` say what the measurement used of it."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        memory = None
    try:
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        system = platform.platform(terse=True)
    return {
        "cpu": _cpu(),
        "cores": cores,
        "memory_gib": memory and round(memory, 1),
        "gpu": gpu,
        "os": system,
    }


def _cpu():
    try:
        information = pathlib.Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine()
    model = re.search(r"^model name\s*:\s*(.+)$", information, re.MULTILINE)
    name = re.sub(r"\((R|TM)\)", "", model[1]).strip() if model else platform.machine()
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", information, re.MULTILINE)
    for flag, vectors in (("avx512bw", "AVX-512"), ("avx2", "AVX2"), ("asimd", "NEON")):
        if flags and flag in flags[1].split():
            return f"{name} with {vectors}"
    return name


def this_versions() -> dict[str, str | None]:
    """Returns the versions of Python, of the libraries that benchmarks use, and of the C compilers."""
    versions = {"python": platform.python_version()}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = None
    for compiler in COMPILERS:
        text = _output(compiler, "--version")
        found = re.search(r"\d+\.\d+(\.\d+)?", re.sub(r"\(.*?\)", "", text.splitlines()[0])) if text else None
        versions[compiler] = found[0] if found else None
    return versions


def this_commit() -> dict:
    """Returns `commit` and `dirty`: whether files in git other than results and documents have been edited."""
    commit = _output("git", "-C", str(REPO), "rev-parse", "HEAD")
    if not commit:
        return {"commit": None, "dirty": None}
    status = _output(
        *("git", "-C", str(REPO), "status", "--porcelain", "--untracked-files=no"),
        *("--", ".", ":!benchmarks/results", ":!*.md"),
    )
    return {"commit": commit, "dirty": bool(status)}


def _output(*command) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
