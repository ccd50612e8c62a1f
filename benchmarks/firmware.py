"""Counts the instructions that a classified image takes on microcontrollers, by running firmware in an emulator.

    apt-get install gcc-arm-none-eabi gcc-riscv64-unknown-elf qemu-system-arm qemu-system-misc
    pip install -e ".[bench]" && python benchmarks/firmware.py [--only=NETWORK] [--save]

It builds firmware from the exported C code, the start-up code of examples/cortex_m4 and firmware/main.c, and runs it under QEMU with
`-icount shift=0`. There an instruction takes 1 ns, so the processor's timer counts them. The logits must be those of the NumPy
engine. The Cortex-M0+ code runs on the board with a Cortex-M4, which has all of its instructions.

An emulator counts instructions, not cycles: loads, branches and slow flash take longer. The documentation therefore gives times only
as an estimate, for 1 to 1.5 cycles an instruction.

Beside that stand the sizes: the section `.text` of model.o, the buffer, and the most stack that `model_logits` takes.
The networks are those of the zoo, and ResNet-8 and ResNet-20 for images of 32x32x3 with random weights.
"""

import argparse
import dataclasses
import pathlib
import re
import shutil
import subprocess
import tempfile

import numpy as np
from c_export import text_and_stack, write
from inference import multiplications
from networks import pixels, random_network
from results import REPO, add_save_option, measured, save
from templates import c_code

from qresnet_jax.ship import reference
from qresnet_jax.ship.c.writer import c_files
from qresnet_jax.ship.load import find_packed, zoo
from qresnet_jax.ship.packed.file import read_packed

NAME = "firmware"
HERE = pathlib.Path(__file__).parent / "firmware"
EXAMPLE = REPO / "examples" / "cortex_m4"
EMULATOR = (
    "-icount shift=0 -chardev stdio,id=out -semihosting-config enable=on,target=native,chardev=out "
    "-display none -monitor none -serial none"
)
STRING_H = """\
#include <stddef.h>
void *memcpy(void *restrict to, const void *restrict from, size_t n);
void *memset(void *to, int value, size_t n);
"""
SECONDS = 600  # for one compilation or one run


@dataclasses.dataclass(frozen=True)
class Target:
    """A processor.

    Args:
      compiler: GCC and the flags of the processor.
      emulator: QEMU and the board.
      flash, ram: where they begin on that board.
      cycle: instructions of the emulator in a cycle of the board's timer.
    """

    compiler: str
    emulator: str
    flash: int = 0x00000000
    ram: int = 0x20000000
    cycle: int = 1

    @property
    def is_riscv(self) -> bool:
        """Returns whether it is no Arm processor."""
        return self.compiler.startswith("riscv")

    @property
    def is_here(self) -> bool:
        """Returns whether compiler and emulator are installed."""
        return all(shutil.which(command.split()[0]) for command in (self.compiler, self.emulator))


TARGETS = {
    "Cortex-M4": Target(
        "arm-none-eabi-gcc -mcpu=cortex-m4 -mthumb", "qemu-system-arm -M mps2-an386", cycle=40
    ),
    "Cortex-M0+": Target(
        "arm-none-eabi-gcc -mcpu=cortex-m0plus -mthumb", "qemu-system-arm -M mps2-an386", cycle=40
    ),
    "Cortex-M33": Target(
        "arm-none-eabi-gcc -mcpu=cortex-m33 -mthumb",
        "qemu-system-arm -M mps2-an505",
        flash=0x10000000,
        ram=0x38000000,
        cycle=50,
    ),
    "RV32IMC": Target(
        "riscv64-unknown-elf-gcc -march=rv32imc -mabi=ilp32 -ffreestanding -isystem .",
        "qemu-system-riscv32 -M virt -bios none",
        flash=0x80000000,
        ram=0x80400000,
    ),
}
FIRST = "Cortex-M4"  # the target on which every network is measured, in both profiles
RESNETS = ("ResNet-8, 32x32x3", "ResNet-20, 32x32x3")


def built(target: Target, level: str, files: dict[str, str], image: np.ndarray, folder: pathlib.Path) -> None:
    """Writes `firmware.elf` into a folder, beside its sources."""
    write(folder, files)
    image.tofile(folder / "image.raw")
    for source in (HERE / "main.c", EXAMPLE / "start.c"):
        shutil.copy(source, folder)
    shutil.copy(HERE / "riscv.h" if target.is_riscv else EXAMPLE / "semihosting.h", folder / "semihosting.h")
    script = (EXAMPLE / "link.ld").read_text()
    for name, origin in (("FLASH", target.flash), ("RAM", target.ram)):
        script = re.sub(
            rf"({name} \(\w+\)\s*: ORIGIN = )\w+, LENGTH = \w+", rf"\g<1>{origin:#x}, LENGTH = 4M", script
        )
    (folder / "link.ld").write_text(script)
    if target.is_riscv:  # whose compiler comes without a C library
        (folder / "string.h").write_text(STRING_H)
    sources = [*[str(HERE / "riscv.s")] * target.is_riscv, "main.c", "start.c", "model.c"]
    command = [*target.compiler.split(), "-std=gnu99", level, "-nostdlib", "-T", "link.ld"]
    command += ["-Wl,--no-warn-rwx-segments", "-o", "firmware.elf", *sources, "-lgcc"]
    subprocess.run(command, cwd=folder, check=True, timeout=SECONDS)


def run(target: Target, folder: pathlib.Path) -> tuple[int, np.ndarray]:
    """Runs `firmware.elf` of a folder, and returns how many instructions an image takes, and its logits."""
    command = [*target.emulator.split(), *EMULATOR.split(), "-kernel", "firmware.elf"]
    done = subprocess.run(
        command,
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        stdin=subprocess.DEVNULL,
    )
    count, *logits = map(int, done.stdout.split())
    return count * target.cycle, np.array(logits)


def measure(network, name: str, profile: str, level: str, target: str, folder: pathlib.Path) -> dict:
    """Returns one row of the figures.

    Raises:
      SystemExit: the logits are not those of the NumPy engine.
    """
    files, image, chosen = c_files(network, profile=profile), pixels(network, 1), TARGETS[target]
    built(chosen, level, files, image, folder)
    count, logits = run(chosen, folder)
    if not np.array_equal(logits, reference.logits(network, image)[0]):
        raise SystemExit(
            f"{name}, {profile}, {target}: the firmware computes other logits than the NumPy engine"
        )
    text, stack = text_and_stack(f"{chosen.compiler} {level}", folder)
    (buffer,) = re.findall(r"Working memory: (\d+)", files["model.h"])
    row = {"network": name, "profile": profile, "target": target, "command": f"{chosen.compiler} {level}"}
    sizes = {"text": text, "buffer": int(buffer), "stack": stack}
    return row | sizes | {"instructions": count, "multiplications": multiplications(network)[0]}


def networks() -> dict[str, object]:
    """Returns the networks by name."""
    random = {name: random_network(depth) for name, depth in zip(RESNETS, (8, 20), strict=True)}
    return random | {name: read_packed(find_packed(name)) for name in zoo()}


def cases(names, targets) -> list[tuple[str, str, str, str]]:
    """Returns network, profile, level of optimization and target of each row."""
    rows = [(name, profile, "-O2", FIRST) for name in names for profile in ("small", "fast")]
    rows += [(name, "small", "-Os", FIRST) for name in RESNETS]
    rows += [(name, "small", "-O2", target) for name in RESNETS for target in targets if target != FIRST]
    return [row for row in rows if row[0] in names and row[3] in targets]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="part of the names of the networks")
    add_save_option(parser, NAME)
    args = parser.parse_args()
    targets = [name for name, target in TARGETS.items() if target.is_here]
    for name in TARGETS.keys() - targets:
        print(f"{name}: compiler or emulator is not installed")
    chosen = {name: network for name, network in networks().items() if args.only in name}
    if not chosen or FIRST not in targets:
        parser.error("there is no such network, or no arm-none-eabi-gcc or qemu-system-arm")
    if args.only and args.save:
        parser.error("--save replaces the whole table: leave --only out")
    rows = []
    for name, profile, level, target in cases(chosen, targets):
        with tempfile.TemporaryDirectory() as folder:
            rows.append(measure(chosen[name], name, profile, level, target, pathlib.Path(folder)))
        print(rows[-1], flush=True)
    measurement = measured({"what": "firmware", "rows": rows}, cores=1)
    print(c_code.firmware({"firmware": measurement}))
    if args.save:
        print("wrote", save(NAME, "firmware", measurement, args.save))


if __name__ == "__main__":
    main()
