"""Finds the image files that `config.predict.images` names: files, directories and patterns."""

import glob
import logging
import os
import pathlib
from collections.abc import Iterator, Sequence

from qresnet_jax.data.pictures import ENDINGS, is_image
from qresnet_jax.errors import ConfigError, DataError
from qresnet_jax.system.files import as_path

log = logging.getLogger("qresnet_jax")


def find_images(given: str | Sequence[str]) -> list[pathlib.Path]:
    """Returns the image files that are named, in the order of the names; the log says what a name was taken for.

    A name is the path of a file; or of a directory, which stands for the image files directly in it; or a pattern with
    `*`, `?`, `[...]` or `**`, which stands for the files that match it. The files of a directory and of a pattern are
    sorted by their paths, and hidden ones are left out.

    Args:
      given: a tuple of names; or a string of names that commas separate. A comma inside the name of an existing file or
        directory does not separate; where several names are possible, the longest one that exists is taken.

    Raises:
      ConfigError: no name is given.
      DataError: a name stands for no file.
    """
    names = list(_separated(given)) if isinstance(given, str) else list(given)
    if not names:
        raise ConfigError(
            "config.predict.images is empty: give files, directories or patterns, as in "
            "--config.predict.images=a.png,photos"
        )
    return [file for name in names for file in _files(name)]


def _separated(given: str) -> Iterator[str]:
    pieces = given.split(",")
    listed: dict[str, list[str]] = {}  # for each directory, the entries with a comma in their names
    while pieces:
        count = 1
        directory, start = os.path.split(os.path.expanduser(pieces[0].strip()))
        if directory not in listed:
            listed[directory] = _entries_with_commas(directory)
        if any(name.startswith(f"{start},") for name in listed[directory]):
            longer = range(len(pieces), 1, -1)
            count = next((n for n in longer if _exists(",".join(pieces[:n]).strip())), 1)
        name = ",".join(pieces[:count])
        name = name if _exists(name) else name.strip()
        if count > 1:
            log.info("%s: one name, as it exists with its commas", name)
        if name:
            yield name
        del pieces[:count]


def _entries_with_commas(directory: str) -> list[str]:
    try:
        return [name for name in os.listdir(directory or ".") if "," in name]
    except (OSError, ValueError):
        return []


def _exists(name: str) -> bool:
    # Not pathlib's `exists`, which raises an error for a name that is too long, such as many names in one string.
    return name != "" and os.path.lexists(os.path.expanduser(name))


def _files(name: str) -> list[pathlib.Path]:
    path = as_path(name)
    if os.path.isfile(path):  # pathlib's raises an error for a path that must not be looked at
        return [path]
    if os.path.isdir(path):
        return _in_directory(path)
    if _exists(name):
        raise DataError(
            f"config.predict.images: {name} is neither a file nor a directory: give an image file"
        )
    if glob.has_magic(name):
        return _matching(path)
    raise DataError(
        f"config.predict.images: there is no file or directory {name}; give paths from the current directory, "
        f"{os.getcwd()}, and commas only between them"
    )


def _in_directory(path: pathlib.Path) -> list[pathlib.Path]:
    try:
        entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise DataError(f"config.predict.images: {path} cannot be read ({error.strerror})") from error
    files = [entry for entry in entries if entry.is_file()]
    images = [file for file in files if is_image(file)]
    if not images:
        raise DataError(
            f"config.predict.images: the directory {path} has no image file ({' '.join(ENDINGS)}) directly in it; it "
            f"has other files: {len(files)}, directories: {len(entries) - len(files)}. Give '{path / '*'}' to read files "
            f"with other endings, or '{path / '**'}' to search the directories too"
        )
    _log(f"{path}: a directory", images, len(entries) - len(images))
    return images


def _matching(pattern: pathlib.Path) -> list[pathlib.Path]:
    matches = sorted(pathlib.Path(match) for match in glob.glob(str(pattern), recursive=True))
    files = [match for match in matches if match.is_file()]
    if not files:
        found = (
            f"matches only {len(matches)} directories: give {pattern / '*'}" if matches else "matches nothing"
        )
        raise DataError(
            f"config.predict.images: there is no file {pattern}, and as a pattern it {found}"
            + ("" if matches else f"; patterns are from the current directory, {os.getcwd()}")
        )
    # Where no file has the ending of an image, all of them are meant.
    images = [file for file in files if is_image(file)] or files
    _log(f"{pattern}: a pattern", images, len(matches) - len(images))
    return images


def _log(what: str, images: Sequence[pathlib.Path], others: int) -> None:
    left_out = f"; {others} other{'s are' if others > 1 else ' is'} left out" if others else ""
    log.info("%s with %d image%s%s", what, len(images), "" if len(images) == 1 else "s", left_out)
