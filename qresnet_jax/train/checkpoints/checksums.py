"""Checksums of checkpoints, which tell a damaged file before anything is restored from it.

STEP/checksums.json holds the SHA-256 of each file in the directories of STEP's items, by its path from STEP. Orbax's
formats have checksums of their indices only: a flipped bit in the values of an array would be restored in silence.
"""

import asyncio
import hashlib
import json
import logging
import pathlib
from concurrent.futures import ThreadPoolExecutor

import orbax.checkpoint as ocp

log = logging.getLogger("qresnet_jax")

FILE = "checksums.json"


class ChecksummedDirectory(ocp.path.atomicity.AtomicRenameTemporaryPath):
    """The directory of a step while it is being saved; it gets its checksums before it gets its name.

    So every complete checkpoint has checksums. Orbax saves in a thread, and training goes on meanwhile.
    """

    async def finalize(self) -> None:
        """Writes the checksums, and then renames the directory."""
        await asyncio.to_thread(write_checksums, pathlib.Path(self.get()))
        await super().finalize()


def write_checksums(directory: pathlib.Path) -> None:
    """Writes the checksums of all files in the subdirectories of `directory`, which are the items of a checkpoint.

    Orbax's own files beside the items are left out, as it still changes them when it renames the directory.
    """
    files = {
        name: path for item in directory.iterdir() if item.is_dir() for name, path in _files(item).items()
    }
    text = json.dumps({"sha256": _digests(files)}, indent=1)
    (directory / FILE).write_text(text)


def verify(directory: pathlib.Path, item: str) -> bool:
    """Compares the files of an item with their checksums. Files that were added since are logged and do no harm.

    Args:
      directory: the directory of a step.
      item: the name of a subdirectory, which need not exist if it was not saved.

    Returns:
      Whether there are checksums; checkpoints of earlier versions have none.

    Raises:
      ValueError: a file is missing or has changed; the message names it.
      OSError: a file cannot be read.
    """
    try:
        recorded = dict(json.loads((directory / FILE).read_text())["sha256"])
    except FileNotFoundError:
        return False
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{FILE} is damaged") from error
    found = _files(directory / item)
    expected = {name: digest for name, digest in recorded.items() if name.startswith(f"{item}/")}
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ValueError(f"its file {missing[0]} is missing")
    digests = _digests({name: found[name] for name in expected})
    changed = sorted(name for name in expected if digests[name] != expected[name])
    if changed:
        raise ValueError(f"its file {changed[0]} has changed since it was saved")
    added = sorted(found.keys() - expected.keys())
    if added:
        log.warning("%s was not saved with this checkpoint and is ignored", directory / added[0])
    return True


def _files(item: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the files in an item's directory, by their paths from the directory of its step."""
    return {path.relative_to(item.parent).as_posix(): path for path in item.rglob("*") if path.is_file()}


def _digests(files: dict[str, pathlib.Path]) -> dict[str, str]:
    with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
        return dict(zip(files, pool.map(_digest, files.values()), strict=True))


def _digest(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
