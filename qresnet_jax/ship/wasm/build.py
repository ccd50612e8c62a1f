"""Compiles the C code of a network to WebAssembly, by clang and lld or by the Zig compiler, which has both."""

import functools
import importlib.util
import pathlib
import shlex
import shutil
import sys
import tempfile
from collections.abc import Sequence

from qresnet_jax.errors import CompilerError
from qresnet_jax.system.programs import TimeLimitError, run_program

COMPILE_SECONDS = 600  # the large networks take half a minute
STACK_BYTES = 2**18  # ten times what is needed
EXPORTS = ("_initialize", "model_image", "model_run", "model_scores")
_LINK = (
    *("--no-entry", "--strip-all", "--stack-first", "-z", f"stack-size={STACK_BYTES}", "-o", "model.wasm"),
    *(f"--export={name}" for name in EXPORTS),
)
ADVICE = "install clang and lld (apt install clang lld), or Zig (pip install ziglang)"
_FOLDER = pathlib.Path(__file__).parent
# clang would load the places of taps in vectors, only to take those apart again, unless it is told not to. The flag has to
# stand behind the one for the level of optimisation.
_FLAGS = ("-std=c99", "-ffreestanding", "-nostdlibinc", "-fno-slp-vectorize", "-isystem", str(_FOLDER))
# The plain build is for old browsers, and small rather than fast, as everybody else downloads it as well.
SIMD = ("-O2", "-msimd128")
PLAIN = ("-Os", "-mcpu=mvp")


class Tools:
    """Programs that make WebAssembly.

    Args:
      compiler: the command that compiles C.
      linker: the command of `wasm-ld`.
    """

    def __init__(self, compiler: Sequence[str], linker: Sequence[str]) -> None:
        self.compiler, self.linker = tuple(compiler), tuple(linker)

    def modules(self, shared: str, code: str, builds: Sequence[Sequence[str]]) -> list[bytes]:
        """Compiles two source files, the first one once and the second one in several ways, and links them.

        Args:
          shared: C text with the constants.
          code: C text with the code.
          builds: for each module the flags of its code, such as `SIMD`.

        Returns:
          The modules, without names for debuggers.

        Raises:
          CompilerError: if a program fails, or does not end in time.
        """
        with tempfile.TemporaryDirectory() as name:
            directory, modules = pathlib.Path(name), []
            (directory / "constants.c").write_text(shared, encoding="ascii")
            (directory / "code.c").write_text(code, encoding="ascii")
            self._compile("constants.c", "constants.o", PLAIN, directory)
            for flags in builds:
                self._compile(str(_FOLDER / "string.c"), "string.o", flags, directory)
                self._compile("code.c", "code.o", flags, directory)
                _run([*self.linker, *_LINK, "constants.o", "code.o", "string.o"], directory)
                modules.append((directory / "model.wasm").read_bytes())
            return modules

    def _compile(self, source: str, result: str, flags: Sequence[str], directory: pathlib.Path) -> None:
        _run([*self.compiler, *flags, *_FLAGS, "-c", source, "-o", result], directory)


@functools.cache
def find_tools() -> Tools:
    """Returns the first tools that work: clang with wasm-ld, or Zig as a program, or as the package `ziglang`.

    Raises:
      CompilerError: if there are none; the message says what to install.
    """
    failed = []
    for compiler, linker in _candidates():
        tools = Tools(compiler, linker)
        try:
            tools.modules("", _PROBE, [SIMD])
        except CompilerError as error:
            failed.append(f"; {error}" if linker else "")
        else:
            return tools
    raise CompilerError(f"nothing here compiles to WebAssembly: {ADVICE}{''.join(failed)}")


def _candidates() -> list[tuple[list[str], list[str]]]:
    """Returns the commands of the compilers that are installed, and of their linkers."""
    found = []
    if shutil.which("clang") and shutil.which("wasm-ld"):
        found.append((["clang", "--target=wasm32"], ["wasm-ld"]))
    zig = [["zig"]] if shutil.which("zig") else []
    if importlib.util.find_spec("ziglang"):
        zig.append([sys.executable, "-m", "ziglang"])
    for command in zig:
        compiler = [*command, "cc", "--target=wasm32-freestanding", "-fno-sanitize=undefined"]
        found.append((compiler, [*command, "wasm-ld"]))
    return found


def _run(command: Sequence[str], directory: pathlib.Path) -> None:
    """Runs a program, which has to succeed.

    Raises:
      CompilerError: if it fails, or takes longer.
    """
    try:
        done = run_program(command, COMPILE_SECONDS, directory=directory)
    except OSError as error:
        raise CompilerError(f"{command[0]} cannot be run ({error.strerror}): {ADVICE}") from error
    except TimeLimitError as error:
        raise CompilerError(f"{error}: {ADVICE}") from error
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-500:]
        raise CompilerError(f"{shlex.join(command)} failed: {said}. Update it, or {ADVICE}")


_PROBE = """
#include <stdint.h>
#include <string.h>
#include <wasm_simd128.h>
uint8_t model_image[16];
int32_t model_scores[4];
void _initialize(void) {}
void model_run(void)
{
    const v128_t x = wasm_v128_load(model_image);
    memcpy(model_scores, &x, 16);
}
"""
