"""Renders the tables and figures of README.md and docs/ from the result files of the benchmarks.

    make tables                            # writes them into the documents
    python benchmarks/tables.py --check    # fails if a document and a file differ; `make lint` runs this
    python benchmarks/tables.py --list     # prints every name, with the text of every figure

A document says where a table goes by a pair of comments. Everything between them is output and is replaced:

    <!-- table: inference -->
    <!-- end table -->

The tables are:

    results                  for the README: accuracy, size and speed, with one line for each task
    accuracy_fashion_mnist   accuracy by network, epochs and settings
    accuracy_digits          the same for scikit-learn's digits
    hysteresis               accuracy and movement of the signs by threshold, with one seed each
    hysteresis_seeds         accuracy by threshold over several seeds
    hysteresis_cifar10_jpeg  accuracy and movement of the signs by threshold, with Muon on CIFAR-10-JPEG
    hysteresis_fashion_mnist the same on Fashion-MNIST
    recipes_cifar10_jpeg     accuracy by recipe on CIFAR-10-JPEG
    recipes_fashion_mnist    the same on Fashion-MNIST
    zoo                      accuracy and bytes of the packed files that come with the package
    size                     parameters, bytes and multiplications by network
    inference                time of an image by engine and batch size, against onnxruntime
    inference_memory         memory by engine
    train_step               time of a training step on a CPU, against PyTorch
    epochs                   time of 200 epochs on a GPU, against the float twin
    memory                   bytes of an image in a training step by network and config.remat
    remat                    time of a training step by config.remat
    scaling                  time of a training step by number of virtual devices
    exchange                 bytes that devices exchange in a training step, and the time of that on GPUs
    pipeline                 speed of decoders and of streaming
    sweep                    time of a training step, for several runs at once
    c_export                 time of the exported C code by profile and compiler
    c_export_sizes           flash and RAM of the exported C code
    c_export_calls           what takes the time of the exported C code
    firmware                 instructions, flash and RAM of the exported C code on microcontrollers
    wasm                     time of the export for browsers, against native C
    wasm_sizes               bytes of the export for browsers

A sentence takes a figure from a file in the same way, by FILE.KEY. FILE is the name of a result file, and KEY is the name
of a figure in it:

    ... a packed file of <!-- figure: size.resnet20_packed -->46 kB<!-- end figure --> ...

Such a comment must not begin a line, because Markdown takes a line that begins with a comment as HTML.
"""

import argparse
import pathlib
import re
import sys

from results import FOLDER, REPO, ResultError, load
from templates import FIGURES, TABLES

MARKER = re.compile(r"<!--\s*(?:(table|figure):\s*(\S+)|end (table|figure))\s*-->")

STARTS_BLOCK = re.compile(r"[\s>*+-]*(\d+[.)]\s*)?")  # nothing, or the mark of a list or a quotation


def documents(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the documents that may hold tables: README.md and all of docs/."""
    return [path for path in (root / "README.md", *sorted((root / "docs").rglob("*.md"))) if path.exists()]


def blocks(text: str, where: str) -> list[tuple[str, str, int, int]]:
    """Finds the blocks between pairs of markers.

    Args:
      text: the text of a document.
      where: the document's name, for messages.

    Returns:
      `(kind, name, start, end)` for each block: "table" or "figure", its name, and where the text between the markers
      begins and ends.

    Raises:
      ResultError: if markers are not in pairs, or if a figure begins a line.
    """
    found, opened = [], None
    for marker in MARKER.finditer(text):
        kind, name, ended = marker.groups()
        line = f"{where}, line {text.count(chr(10), 0, marker.start()) + 1}"
        if ended:
            if opened is None or opened[0] != ended:
                raise ResultError(f"{line}: 'end {ended}' without a '{ended}: NAME' in front of it")
            found.append((*opened[:2], opened[2], marker.start()))
            opened = None
        elif opened:
            raise ResultError(
                f"{line}: {kind} {name} begins before {opened[0]} {opened[1]} has its end marker"
            )
        else:
            in_front = text[: marker.start()].rpartition("\n")[2]
            if kind == "figure" and STARTS_BLOCK.fullmatch(in_front):
                raise ResultError(
                    f"{line}: figure {name} begins the line, which Markdown then takes as HTML: break the line elsewhere"
                )
            opened = (kind, name, marker.end())
    if opened:
        raise ResultError(f"{where}: {opened[0]} {opened[1]} has no '<!-- end {opened[0]} -->'")
    return found


def render_table(name: str, folder: pathlib.Path) -> str:
    """Returns the Markdown of a table.

    Raises:
      ResultError: if there is no such table, or if its result file is missing or lacks a figure.
    """
    if name not in TABLES:
        raise ResultError(f"there is no table {name!r}; there are: {', '.join(TABLES)}")
    files, render = TABLES[name]
    return _rendered(render, files, folder, f"table {name}")


def all_figures(file: str, folder: pathlib.Path) -> dict[str, str]:
    """Returns the text of every figure of a result file, by key.

    Raises:
      ResultError: if there is no such file, or if it lacks a figure.
    """
    if file not in FIGURES:
        raise ResultError(f"no result file {file!r} has figures; these have: {', '.join(FIGURES)}")
    return _rendered(FIGURES[file], (file,), folder, f"figures of {file}")


def _rendered(render, files, folder, what):
    measurements = [load(file, folder)["measurements"] for file in files]
    try:
        return render(*measurements)
    except (KeyError, ValueError, TypeError, StopIteration) as error:
        places = " and ".join(f"{file}.json" for file in files)
        reason = f"{type(error).__name__}: {error}"
        raise ResultError(
            f"{what}: {places} lacks what the template needs ({reason}): measure again"
        ) from error


def render_figure(name: str, folder: pathlib.Path) -> str:
    """Returns the text of the figure FILE.KEY.

    Raises:
      ResultError: if there is no such figure.
    """
    file, _, key = name.partition(".")
    known = all_figures(file, folder)
    if key not in known:
        raise ResultError(f"there is no figure {key!r} in {file}; there are: {', '.join(known)}")
    return known[key]


def render(text: str, where: str, folder: pathlib.Path) -> tuple[str, list[str], set[str]]:
    """Renders one document.

    Returns:
      The new text, the names of the tables and figures that have changed, and the result files that it uses.

    Raises:
      ResultError: in the cases of `blocks`, `render_table` and `render_figure`; the message begins with the document.
    """
    parts, changed, used, last = [], [], set(), 0
    for kind, name, start, end in blocks(text, where):
        try:
            new = f"\n\n{render_table(name, folder)}\n\n" if kind == "table" else render_figure(name, folder)
        except ResultError as error:
            raise ResultError(f"{where}: {error}") from error
        used |= set(TABLES[name].files) if kind == "table" else {name.partition(".")[0]}
        if text[start:end] != new:
            changed.append(f"{kind} {name}")
        parts += [text[last:start], new]
        last = end
    return "".join([*parts, text[last:]]), changed, used


def update(root: pathlib.Path, folder: pathlib.Path, write: bool) -> list[str]:
    """Renders all documents, or checks them.

    Args:
      root: the folder of the repository.
      folder: the folder of the result files.
      write: whether to write documents that differ; otherwise the differences are problems.

    Returns:
      The problems, each as a message that names the file and the table; [] if all is well.
    """
    problems, used = [], set()
    for path in documents(root):
        where, text = str(path.relative_to(root)), path.read_text(encoding="utf-8")
        try:
            new, changed, files = render(text, where, folder)
        except ResultError as error:
            problems.append(str(error))
            continue
        used |= files
        if write and new != text:
            path.write_text(new, encoding="utf-8")
        elif not write:
            problems += [
                f"{where}: {name} differs from its result file: run `make tables`" for name in changed
            ]
    if not problems:
        unused = sorted({path.stem for path in folder.glob("*.json")} - used)
        problems = [
            f"{name}.json is shown by no table or figure: add one, or delete the file" for name in unused
        ]
    return problems


def main(arguments: list[str] | None = None, root: pathlib.Path = REPO, folder: pathlib.Path = FOLDER) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a document differs")
    parser.add_argument("--list", action="store_true", help="print all names and the text of all figures")
    given = parser.parse_args(arguments)
    problems = print_names(folder) if given.list else update(root, folder, write=not given.check)
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr)
    return 1 if problems else 0


def print_names(folder: pathlib.Path) -> list[str]:
    """Prints the names of all tables and figures, and returns the problems with result files."""
    print(*(f"table: {name}" for name in TABLES), sep="\n")
    problems = []
    for file in FIGURES:
        try:
            for key, text in all_figures(file, folder).items():
                print(f"figure: {file}.{key}    {text}")
        except ResultError as error:
            problems.append(str(error))
    return problems


if __name__ == "__main__":
    sys.exit(main())
