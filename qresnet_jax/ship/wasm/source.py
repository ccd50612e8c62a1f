"""Writes the C code of a WebAssembly module: two source files, one with the constants and one with the code.

The constants are a file of their own, so that the optimiser does not see them: two builds of the code, with and without
vectors, have the same ones then, at the same place, and they are stored once.

The lists of what each output adds up are most of the constants. In a list each number is a little larger than the one
before. So the differences are stored, in LEB128 with the sign in the lowest bit, which take a byte where the lists
take two, and which gzip reduces to little more than a bit for each weight. `_initialize` adds them up, and only then
says where the lists are, as that depends on the build.
"""

import math
import pathlib
import re

import numpy as np

from qresnet_jax.ship.c import fast, text
from qresnet_jax.ship.c.fast.profile import FastProfile
from qresnet_jax.ship.c.plan import Plan
from qresnet_jax.ship.wasm.sections import number

_HEADERS = pathlib.Path(fast.__file__).parent / "headers"


def sources(plan: Plan) -> tuple[str, str]:
    """Returns the texts of the source files: the constants, and the code.

    The module that is made of them exports the memory; `model_image`, `model_scores`: addresses of the image, uint8
    `[H, W, C]`, and of the logits, int32 `[classes]`; `_initialize`, to be called once; and `model_run`, which
    computes the logits of the image.

    Args:
      plan: the steps of the network for one size of images.
    """
    profile = FastProfile(plan)
    head = text.amalgamated(profile.head(), _HEADERS)
    network = plan.network
    wrapper = _WRAPPER.format(
        image=plan.height * plan.width * network.channels,
        classes=network.classes,
        buffer=profile.buffer_bytes,
        function=profile.function(),
    )
    arrays, structs = profile.constants.arrays, profile.constants.structs
    kinds = {name: f"model_{kind} {name}" for name, (kind, _) in structs.items()}
    kinds |= {
        name: f"{text.array_type(x)} {name}[{x.size}]" for name, x in arrays.items() if not _is_list(name)
    }
    defined = [_stored(text.array(name, x)) for name, x in arrays.items() if not _is_list(name)]
    calls = []
    for name, x in arrays.items():
        if _is_list(name):
            defined.append(_stored(text.array(f"packed_{name}", packed(x))))
            defined.append(f"static model_offset {name}[{x.size}];\n")
            calls.append(f"    model_unpack(packed_{name}, {x.size}u, {unit(x)}u, {name});\n")
    for name, (_, values) in structs.items():
        defined.append(_stored(f"{kinds[name]} = {_LISTS.sub('.lists = 0', values)};\n"))
        calls += [f"    {name}.lists = {lists};\n" for lists in _LISTS.findall(values)]
    constants = "\n".join([head, _PLACE, *defined, _UNPACK.replace("CALLS", "".join(calls))])
    declared = "".join(f"extern const {kind};\n" for kind in kinds.values())
    return constants, "\n".join([head, *profile.kernels.values(), declared, wrapper])


def unit(x: np.ndarray) -> int:
    """Returns the largest number that all numbers are multiples of; 1 if all are 0."""
    return math.gcd(*x.tolist()) or 1


def packed(x: np.ndarray) -> np.ndarray:
    """Returns the differences of a list's numbers, from 0 on and in units of `unit`, as uint8 `[bytes]`."""
    differences = np.diff(x.astype(np.int64) // unit(x), prepend=0)
    numbers = np.where(differences < 0, -2 * differences - 1, 2 * differences)
    return np.frombuffer(b"".join(map(number, numbers.tolist())), np.uint8)


def _stored(definition: str) -> str:
    """Returns a definition that is not constant, so that `_initialize` may change it, but lies among constants."""
    return f"MODEL_STORED {definition.removeprefix('const ')}"


def _is_list(name: str) -> bool:
    """Returns whether a constant array is one of lists; see `Structs.conv`."""
    return name.startswith("model_lists_")


_PLACE = '#define MODEL_STORED __attribute__((section(".rodata.model")))\n'
_LISTS = re.compile(r"\.lists = (model_lists_\w+)")

_UNPACK = """
static inline void model_unpack(const uint8_t *from, size_t n, uint32_t unit, model_offset *to)
{
    uint32_t value = 0;
    size_t i;
    for (i = 0; i < n; i++) {
        uint32_t number = 0, shift = 0, digit;
        do {
            digit = *from++;
            number |= (digit & 127u) << shift;
            shift += 7;
        } while (digit > 127);
        value += number & 1u ? ~(number >> 1) : number >> 1;
        to[i] = (model_offset)(value * unit);
    }
}

void _initialize(void);
void _initialize(void)
{
CALLS}
"""

_WRAPPER = """
#define MODEL_CLASSES {classes}
void model_logits(const uint8_t *image, int32_t *logits, void *buffer);

{function}
uint8_t model_image[{image}];
int32_t model_scores[MODEL_CLASSES];
static uint8_t model_buffer[{buffer}] __attribute__((aligned(64)));

void model_run(void);
void model_run(void)
{{
    model_logits(model_image, model_scores, model_buffer);
}}
"""
