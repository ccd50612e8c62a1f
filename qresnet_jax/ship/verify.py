"""Runs the files of an export with the programs that their users have, and compares the logits."""

import pathlib
import re
import shutil
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qresnet_jax.errors import CompilerError, ExportError
from qresnet_jax.ship import reference
from qresnet_jax.system.programs import TimeLimitError, run_program

IMAGES = 256  # these are enough, because every image uses the whole file
PROGRAM_SECONDS = 600  # for a compiler, or for an exported program with all images; both take seconds
VERSION_SECONDS = 20  # for a compiler to say its version
_BATCH = 16  # images that are run at once; memory would not allow more large ones
_QONNX_IMAGES = 16  # the executor of QONNX is slow
# The tolerance, as a fraction of the mean |logit|: rounding moves some values across a threshold, which moves logits.
_FLOAT_DIFFERENCE = 0.01


def check(
    files: Sequence[pathlib.Path],
    format: str,
    images: np.ndarray,
    expected: np.ndarray,
    *,
    name: str,
    kind: str,
) -> str:
    """Runs the files of an export, and compares their logits with the expected ones.

    Args:
      files: the files of one network.
      format: the format of the files, a key of `RUNNERS`.
      images: uint8 `[N, H, W, C]`, N > 0.
      expected: the right logits `[N, classes]`. Integers must be equal to the bit. With floats, all images
        but one must get the same class, and the logits may differ by 1 % on average.
      name: what messages call the files.
      kind: what messages call the images, in the plural.

    Returns:
      A sentence that says what was checked, or which program is missing for the check.

    Raises:
      ExportError: if the files do not run, or give other logits.
    """
    advice = "It is a fault of the writer, or of the program that runs it: choose another config.export.format, and report it"
    run = RUNNERS[format]
    try:
        logits = run(files, images, expected.shape[1])
    except _MissingError as missing:
        return f"not checked: {missing}"
    except Exception as error:  # whatever a runtime meets first
        reason = " ".join(str(error).split())
        raise ExportError(f"{name} does not run ({reason}), so it is not kept. {advice}") from error
    expected = expected[: len(logits)]
    if not _agree(logits, expected):
        raise ExportError(
            f"{name} gives other logits than the network on {len(logits)} {kind}, so it is not kept. {advice}"
        )
    what = "logits" if expected.dtype.kind == "i" else "classes"
    return f"checked: {name} gives the same {what} on {len(logits)} {kind}"


def _agree(logits: np.ndarray, expected: np.ndarray) -> bool:
    if len(logits) == 0 or logits.shape != expected.shape:
        return False
    if expected.dtype.kind == "i":
        return np.array_equal(logits, expected)
    others = int(np.sum(logits.argmax(-1) != expected.argmax(-1)))
    difference = float(np.abs(logits - expected).mean())
    return others <= 1 and difference <= _FLOAT_DIFFERENCE * float(np.abs(expected).mean())


class _MissingError(Exception):
    """A program that is needed to run the files is missing; the message says which."""


def _in_batches(run: Callable[[Any], Any], images: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(run(images[i : i + _BATCH])) for i in range(0, len(images), _BATCH)])


# Each of these functions runs one format. From the files, the images and the number of classes it computes the logits of
# all images, or of the first ones.


def _packed(files: Sequence[pathlib.Path], images: np.ndarray, classes: int) -> np.ndarray:
    from qresnet_jax.ship.packed.file import read_packed

    return reference.logits(read_packed(files[0]), images)


def _c(files: Sequence[pathlib.Path], images: np.ndarray, classes: int) -> np.ndarray:
    """Runs the example that is exported beside the network, which prints logits and the name of the class."""
    from qresnet_jax.ship.c.engine import find_compiler

    try:
        compiler = find_compiler()
    except CompilerError as error:
        raise _MissingError("there is no C compiler (install gcc, or set CC)") from error
    sources = [str(file) for file in files if file.suffix == ".c"]
    with tempfile.TemporaryDirectory() as directory:
        program = f"{directory}/example"
        try:
            _output([*compiler, "--version"], seconds=VERSION_SECONDS)  # one that hangs is known soon
            _output([*compiler, "-std=c99", "-O1", *sources, "-o", program])
        except TimeLimitError as error:
            raise _MissingError(f"{error} (set CC to another compiler)") from error
        try:
            printed = _output([program], images.tobytes())
        except PermissionError as error:
            raise _MissingError(
                f"programs may not run in {directory} (set TMPDIR to another place)"
            ) from error
    lines = re.findall(rb"^(?:-?[0-9]+ ){%d}" % classes, printed, re.MULTILINE)
    return np.array([line.split() for line in lines], np.int32)


def _output(command: Sequence[str], given: bytes = b"", seconds: float | None = None) -> bytes:
    done = run_program(command, seconds or PROGRAM_SECONDS, given=given)
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip()[-500:]
        raise RuntimeError(f"{command[0]} failed with status {done.returncode}: {message}")
    return done.stdout


def _onnx(files: Sequence[pathlib.Path], images: np.ndarray, classes: int) -> np.ndarray:
    try:
        import onnxruntime
    except ImportError as error:
        raise _MissingError("onnxruntime is not installed (pip install onnxruntime)") from error
    session = onnxruntime.InferenceSession(str(files[0]), providers=["CPUExecutionProvider"])
    return _in_batches(lambda batch: session.run(["logits"], {"image": batch})[0], images)


def _qonnx(files: Sequence[pathlib.Path], images: np.ndarray, classes: int) -> np.ndarray:
    try:
        from qonnx.core.modelwrapper import ModelWrapper
        from qonnx.core.onnx_exec import execute_onnx
        from qonnx.util.cleanup import cleanup
    except ImportError as error:
        raise _MissingError("qonnx is not installed (pip install qonnx)") from error
    images = images[:_QONNX_IMAGES]
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/many.onnx"
        cleanup(str(files[0]), out_file=path, override_inpsize=len(images))
        model = ModelWrapper(path)
    (image,), (logits,) = model.graph.input, model.graph.output
    return execute_onnx(model, {image.name: images})[logits.name]


def _stablehlo(files: Sequence[pathlib.Path], images: np.ndarray, classes: int) -> np.ndarray:
    from qresnet_jax.ship.jax.stablehlo import read_stablehlo

    return _in_batches(read_stablehlo(files[0]), images)


def _wasm(files: Sequence[pathlib.Path], images: np.ndarray, classes: int) -> np.ndarray:
    """Runs both builds of the module in Node.js, by the exported JavaScript."""
    if shutil.which("node") is None:
        raise _MissingError("Node.js is not installed (apt install nodejs)")
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        for file in files:  # a name that every version of Node.js takes for that of a module
            (directory / file.with_suffix(".mjs" if file.suffix == ".js" else file.suffix).name).write_bytes(
                file.read_bytes()
            )
        (directory / "run.mjs").write_text(_NODE)
        try:
            printed = _output(["node", str(directory / "run.mjs")], images.tobytes())
        except TimeLimitError as error:
            raise _MissingError(str(error)) from error
    vectors, plain = np.frombuffer(printed, "<i4").reshape(2, len(images), classes)
    if not np.array_equal(vectors, plain):
        raise RuntimeError("the builds with and without vectors give different logits")
    return vectors


_NODE = """
import { readFileSync, writeSync } from 'node:fs';
import { load } from './model.mjs';
const images = new Uint8Array(readFileSync(0));
for (const simd of [true, false]) {
  const net = await load(new URL('model.wasm', import.meta.url), { simd });
  const size = net.height * net.width * net.channels;
  for (let at = 0; at < images.length; at += size) {
    const logits = net.logits(images.subarray(at, at + size));
    writeSync(1, new Uint8Array(logits.buffer));
  }
}
"""

RUNNERS = {
    "packed": _packed,
    "c": _c,
    "onnx": _onnx,
    "qonnx": _qonnx,
    "stablehlo": _stablehlo,
    "wasm": _wasm,
}
