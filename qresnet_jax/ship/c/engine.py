"""The C engine: runs exported C code on this machine, compiled by the system's C compiler, with one thread per core.

Compiled networks are kept in the user's cache directory, under a name that says what they were made from, so
that a network is compiled once. The integers are those of `ship/reference.py`.
"""

import _ctypes
import concurrent.futures
import contextlib
import ctypes
import functools
import hashlib
import itertools
import os
import pathlib
import platform
import shlex
import shutil
import tempfile
import time
import weakref
from collections.abc import Mapping, Sequence

import numpy as np

from qresnet_jax.errors import CompilerError, UserError
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.file import packed_bytes
from qresnet_jax.ship.reference import check_images
from qresnet_jax.system.cache import cache_directory
from qresnet_jax.system.machine import processors
from qresnet_jax.system.programs import TimeLimitError, run_program

FLAGS = ("-std=c99", "-O3", "-march=native", "-shared", "-fPIC")
_COMPILERS = ("cc", "gcc", "clang")
_WITHOUT = 'or take another engine: engine="jax" or engine="numpy"'
COMPILE_SECONDS = 600  # the large networks take a minute
VERSION_SECONDS = 20
KEPT_LIBRARIES = 256  # in the cache

_compiled: "weakref.WeakKeyDictionary[IntegerNetwork, dict[tuple[int, int], Library]]"
_compiled = weakref.WeakKeyDictionary()


def logits(network: IntegerNetwork, images: np.ndarray) -> np.ndarray:
    """Computes logits. The first call for a network and a size of images compiles, which takes seconds.

    Args:
      network: from `fold` or a packed file.
      images: uint8 `[N, H, W, C]`.

    Returns:
      int32 `[N, classes]`; times `network.logit_scale` they are the logits of training.

    Raises:
      CompilerError: if no C compiler works.
      ValueError: if the images do not have the network's shape, are too small, or are not uint8.
    """
    check_images(network.image_shape, images, network.least_size)
    libraries = _compiled.setdefault(network, {})
    size = images.shape[1:3]
    if size not in libraries:
        libraries[size] = _load(network, size)
    return libraries[size].logits(np.ascontiguousarray(images))


def _load(network: IntegerNetwork, size: tuple[int, int]) -> "Library":
    path = compiled(network, *size)
    try:
        return Library(path, network.classes)
    except (OSError, AttributeError, ValueError):  # the cached file is damaged, so it is made again
        path.unlink(missing_ok=True)
    path = compiled(network, *size)
    try:
        return Library(path, network.classes)
    except (OSError, AttributeError, ValueError) as error:
        raise CompilerError(
            f"{path} was compiled and cannot be loaded ({error}): set CC to a C99 compiler for this machine, or "
            f"XDG_CACHE_HOME to a place where programs may run, {_WITHOUT}"
        ) from error


class Library:
    """A compiled network, which is unloaded with this object.

    Args:
      path: path of the shared library.
      classes: number of logits.
    """

    def __init__(self, path: pathlib.Path, classes: int) -> None:
        library = ctypes.CDLL(str(path))
        weakref.finalize(self, _ctypes.dlclose, library._handle).atexit = False
        self._run = library.model_run
        self._run.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p]
        self._run.restype = None
        self._buffer_bytes = ctypes.c_size_t.in_dll(library, "model_run_buffer_bytes").value
        self._classes = classes

    def logits(self, images: np.ndarray) -> np.ndarray:
        """Returns int32 `[N, classes]` for contiguous uint8 `[N, H, W, C]` of the size that it was compiled for."""
        result = np.empty((len(images), self._classes), np.int32)
        threads = max(min(processors(), len(images)), 1)
        edges = [len(images) * t // threads for t in range(threads + 1)]
        own, *others = (slice(a, b) for a, b in itertools.pairwise(edges))
        try:
            running = [_threads().submit(self._part, images[part], result[part]) for part in others]
        except RuntimeError:  # Python is about to exit, or the system has no more threads
            running, own = [], slice(None)
        self._part(images[own], result[own])
        for future in running:
            future.result()
        return result

    def _part(self, images: np.ndarray, result: np.ndarray) -> None:
        """Classifies with a buffer of its own, while ctypes lets other threads run."""
        buffer = np.empty(self._buffer_bytes, np.uint8)
        self._run(images.ctypes.data, len(images), result.ctypes.data, buffer.ctypes.data)


@functools.cache
def _threads() -> concurrent.futures.Executor:
    """Returns the threads that all networks of this process share. They start when needed, and end with Python."""
    return concurrent.futures.ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="qresnet_jax.c")


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_threads.cache_clear)  # a fork has none of the threads


_LOOP = """
#include "model.h"
#include <stddef.h>
size_t model_run_buffer_bytes = MODEL_BUFFER_BYTES;
void model_run(const uint8_t *images, size_t n, int32_t *logits, void *buffer);
void model_run(const uint8_t *images, size_t n, int32_t *logits, void *buffer)
{
    while (n) {
        size_t done = 1;
#ifdef MODEL_MANY
        if (n > MODEL_MANY / 2) { /* fewer images are quicker one by one */
            done = n < MODEL_MANY ? n : MODEL_MANY;
            model_logits_many(images, (uint32_t)done, logits, buffer);
        } else
#endif
            model_logits(images, logits, buffer);
        n -= done;
        images += done * MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS;
        logits += done * MODEL_CLASSES;
    }
}
"""


def compiled(network: IntegerNetwork, height: int, width: int) -> pathlib.Path:
    """Returns the path of the shared library for images of a size. It is compiled if the cache does not have it.

    Raises:
      CompilerError: if no C compiler works, or if the cache directory cannot be written.
    """
    compiler = find_compiler()
    made_from = [*compiler, _program(compiler[0]), *FLAGS, _processor(), _writer(), f"{height}x{width}"]
    key = hashlib.sha256("\0".join(made_from).encode() + packed_bytes(network))
    path = _cache_directory() / f"{key.hexdigest()}.so"
    if not path.exists():
        sources = c_files(network, height=height, width=width, many=True)
        _compile(compiler, {**sources, "run.c": _LOOP}, path)
    with contextlib.suppress(OSError):
        os.utime(path)  # it has been used, see _tidy
    return path


def find_compiler() -> tuple[str, ...]:
    """Returns the command of `$CC`, which may have flags, or the first of cc, gcc and clang that is installed.

    Raises:
      CompilerError: if there is none, or if `$CC` is not the command of a program.
    """
    try:
        command = tuple(shlex.split(os.environ.get("CC", "")))
    except ValueError as error:
        raise CompilerError(
            f"CC={os.environ['CC']} is no command ({error}): unset or correct it, {_WITHOUT}"
        ) from error
    if command:
        if shutil.which(command[0]) is None:
            raise CompilerError(
                f"CC={command[0]}: there is no such program. Unset CC or install it, {_WITHOUT}"
            )
        return command
    for name in _COMPILERS:
        if shutil.which(name):
            return (name,)
    raise CompilerError(f"there is no C compiler ({', '.join(_COMPILERS)}). Install gcc, set CC, {_WITHOUT}")


def _cache_directory() -> pathlib.Path:
    try:
        return cache_directory("c")
    except UserError as error:
        raise CompilerError(f"{error}, {_WITHOUT}") from error


def _compile(compiler: Sequence[str], files: Mapping[str, str], path: pathlib.Path) -> None:
    """Compiles in a directory beside `path`, then renames the result, so that two processes may do it at once."""
    command = [*compiler, *FLAGS, "model.c", "run.c", "-o", "model.so"]
    _run([*compiler, "--version"], VERSION_SECONDS)  # one that hangs is known soon
    try:
        _tidy(path.parent)
        with tempfile.TemporaryDirectory(
            dir=path.parent, prefix=_PREFIX, ignore_cleanup_errors=True
        ) as directory:
            for name, text in files.items():
                (pathlib.Path(directory) / name).write_text(text, encoding="ascii")
            status, _, complaint = _run(command, COMPILE_SECONDS, directory)
            if status != 0:
                raise CompilerError(
                    f"{shlex.join(command)} failed: {complaint.strip()[-500:]}. Set CC to a C99 compiler, {_WITHOUT}"
                )
            if not (pathlib.Path(directory) / "model.so").exists():
                raise CompilerError(
                    f"{shlex.join(command)} made nothing, though a library was expected. Set CC to a C99 compiler, "
                    f"{_WITHOUT}"
                )
            os.replace(pathlib.Path(directory) / "model.so", path)
    except OSError as error:
        raise CompilerError(
            f"{path.parent} cannot be written ({error.strerror}): make room there, or set XDG_CACHE_HOME to a "
            f"directory that you can write, {_WITHOUT}"
        ) from error


_PREFIX = "compiling_"


def _tidy(cache: pathlib.Path) -> None:
    """Removes what processes that were killed have left, and the libraries that have not been used for longest."""
    with contextlib.suppress(OSError):  # of another process that tidies at the same time
        for abandoned in cache.glob(f"{_PREFIX}*"):
            if abandoned.stat().st_mtime < time.time() - 2 * COMPILE_SECONDS:
                shutil.rmtree(abandoned, ignore_errors=True)
        libraries = sorted(cache.glob("*.so"), key=lambda path: path.stat().st_mtime, reverse=True)
        for library in libraries[KEPT_LIBRARIES - 1 :]:
            library.unlink(missing_ok=True)


def _run(command: Sequence[str], seconds: float, directory: str | None = None) -> tuple[int, str, str]:
    """Runs a program and returns its status, its output and its messages.

    Raises:
      CompilerError: if it cannot be started, or takes longer; it is killed then, with all that it has started.
    """
    try:
        done = run_program(command, seconds, directory=directory)
    except OSError as error:
        raise CompilerError(
            f"{command[0]} cannot be run ({error.strerror}): set CC to a C99 compiler, {_WITHOUT}"
        ) from error
    except TimeLimitError as error:
        raise CompilerError(f"{error}: set CC to a C99 compiler, {_WITHOUT}") from error
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def _program(name: str) -> str:
    """Returns what tells an installation of a program from another one. Running it would take longer than a prediction."""
    path = os.path.realpath(shutil.which(name) or name)
    found = os.stat(path)
    return f"{path} {found.st_size} {found.st_mtime_ns}"


@functools.cache
def _writer() -> str:
    """Returns what tells the code that writes C from other versions of it."""
    folder = pathlib.Path(__file__).parents[1]
    sources = sorted(path for ending in ("py", "h") for path in folder.rglob(f"*.{ending}"))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


@functools.cache
def _processor() -> str:
    """Returns what -march=native depends on."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    found = sorted({line for line in lines if line.startswith(wanted)})
    return "\n".join([platform.machine(), platform.processor(), *found])
