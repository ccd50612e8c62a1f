"""Writes an `IntegerNetwork` as C99 that needs nothing but a compiler. docs/c_export.md says how to use it.

The code computes with integers only, has the weights as constants and allocates nothing: the caller hands in
the working memory. The logits are those of `ship/reference.py`, to the bit, with every compiler and on every
machine. The same network always gives the same files.
"""

import hashlib
import os
import pathlib
import re

from qresnet_jax.errors import ExportError
from qresnet_jax.ship.c import text
from qresnet_jax.ship.c.fast.many import ManyProfile
from qresnet_jax.ship.c.fast.profile import FastProfile
from qresnet_jax.ship.c.fast.stack import IMAGES, stack
from qresnet_jax.ship.c.plan import plan
from qresnet_jax.ship.c.small.profile import SmallProfile
from qresnet_jax.ship.network import IntegerNetwork
from qresnet_jax.ship.packed.file import packed_bytes
from qresnet_jax.system.files import as_path, write_all

LAYOUTS = ("pair", "header")
# Headers of C99 and C11, which a file of the same name could hide from a compiler.
_STANDARD = re.compile(
    "assert|complex|ctype|errno|fenv|float|inttypes|iso646|limits|locale|math|setjmp|signal|stdalign|stdarg|stdatomic|stdbool|"
    "stddef|stdint|stdio|stdlib|stdnoreturn|strings?|tgmath|threads|time|uchar|wchar|wctype",
    re.IGNORECASE,
)
PROFILES: dict[str, type[FastProfile] | type[SmallProfile]] = {"fast": FastProfile, "small": SmallProfile}


def write_c(
    network: IntegerNetwork,
    directory: str | os.PathLike[str],
    *,
    profile: str = "fast",
    prefix: str = "model",
    layout: str = "pair",
    height: int | None = None,
    width: int | None = None,
) -> list[pathlib.Path]:
    """Writes `model.h`, `model.c` and `example.c`; with another prefix `net`: `net.h`, `net.c` and `net.example.c`.

    With the layout "header" there is no `model.c`: its code stands in `model.h`, for the one source file, in C or C++, that
    defines `MODEL_IMPLEMENTATION` before it includes the header. Networks with different prefixes can lie in one directory, and in one program.

    Args:
      network: a network from `fold` or from a packed file.
      directory: where the files go; it is made if it does not exist.
      profile: `fast` for processors with 64-bit words or vectors, `small` for microcontrollers.
      prefix: what the names of files, functions and, in upper case, macros begin with.
      layout: "pair" for a header and a source file, "header" for one header.
      height, width: the size of the images, for a network that takes any size.

    Returns:
      The paths of the files. Either all of them are written or none.

    Raises:
      ExportError: if the prefix is no C identifier, or would take the name of another file; or the size is missing or not the
        network's.
      UserError: if the files cannot be written.
      ValueError: if there is no such profile or layout.
    """
    files = c_files(network, profile=profile, prefix=prefix, layout=layout, height=height, width=width)
    directory = as_path(directory)
    for header in directory.glob("*.h"):
        if header.stem != prefix and header.stem.upper() == prefix.upper():
            raise ExportError(
                f"{header} has the macros of prefix={prefix!r}, as they are in upper case: choose another prefix or directory"
            )
    contents = {directory / name: content.encode("ascii") for name, content in files.items()}
    write_all(contents)
    return list(contents)


def c_files(
    network: IntegerNetwork,
    *,
    profile: str = "fast",
    prefix: str = "model",
    layout: str = "pair",
    height: int | None = None,
    width: int | None = None,
    many: bool = False,
) -> dict[str, str]:
    """Returns the names and texts of the files that `write_c` writes; its arguments and errors are the same.

    With `many`, the profile `fast` has a second function, which computes the logits of several images together, where that is
    quicker for any layer of the network. `MODEL_MANY` is the most images that it takes, or 1 if there is no such function.
    """
    for what, value, known in (("profile", profile, PROFILES), ("layout", layout, LAYOUTS)):
        if value not in known:
            raise ValueError(f"{what} must be one of {', '.join(known)}, got {value!r}")
    check_prefix(prefix)
    least_height, least_width = network.least_size
    height = _image_size("height", network.height, least_height, height)
    width = _image_size("width", network.width, least_width, width)
    steps = plan(network, height, width)
    together = stack(steps) if many else None
    chosen = PROFILES[profile](steps) if together is None else ManyProfile(steps, together)
    digest = hashlib.sha256(packed_bytes(network)).hexdigest()
    export = hashlib.sha256(f"{digest} {profile} {height} {width}".encode()).hexdigest()[:8]
    header = _HEADER.format(
        profile=profile,
        height=height,
        width=width,
        channels=network.channels,
        classes=network.classes,
        weight_bytes=chosen.weight_bytes,
        buffer_bytes=chosen.buffer_bytes,
        logit_scale=repr(network.logit_scale),
        digest=digest,
        export=export,
        many="" if together is None else _MANY.format(images=IMAGES),
    )
    names = network.class_names or [str(k) for k in range(network.classes)]
    listed = ",\n".join(f"    {text.string(name)}" for name in names)
    # No prefix has a dot, so that the example of one is never the source of another.
    example = "example.c" if prefix == "model" else f"{prefix}.example.c"
    sample = _EXAMPLE.replace("example.c", example)

    def renamed(content: str) -> str:
        return text.renamed(content, prefix)

    # The names of the classes are added after renaming, because a class may have the name of a function.
    code = renamed(chosen.source() + _NAMES) + f"{listed}}};\n"
    if layout == "header":
        sample = "#define MODEL_IMPLEMENTATION\n" + sample.replace(" model.c", "")
        return {f"{prefix}.h": renamed(header + _BEGIN) + code + _END, example: renamed(sample)}
    source = renamed(_INCLUDE.format(export=export)) + code
    return {f"{prefix}.h": renamed(header), f"{prefix}.c": source, example: renamed(sample)}


def check_prefix(prefix: str) -> None:
    """Raises an `ExportError` if the files of an export cannot have this prefix; the message says why."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", prefix, re.ASCII) is None:
        raise ExportError(
            f"prefix={prefix!r} must begin with a letter and go on with letters, digits and _, as a C identifier does"
        )
    if prefix.lower() == "example":
        raise ExportError(
            f"prefix={prefix!r}: example.c is the name of the example program; choose another prefix"
        )
    if _STANDARD.fullmatch(prefix):
        raise ExportError(
            f"prefix={prefix!r}: {prefix}.h is the name of a standard header, which it would hide; choose another prefix"
        )


def _image_size(name: str, of_network: int | None, least: int, asked: int | None) -> int:
    if asked is not None and (of_network not in (None, asked) or not least <= asked < 2**16):
        taken = of_network or f"{least} to 65535"
        raise ExportError(f"{name}={asked}: the network takes images of {name} {taken}")
    size = of_network or asked
    if size is None:
        raise ExportError(f"this network takes images of any {name}, but C code needs one: give {name}=...")
    return size


_HEADER = """\
/* A network with 1-bit weights, in integers; written by qresnet_jax, profile "{profile}".

   Constants: {weight_bytes} bytes. Working memory: {buffer_bytes} bytes.
   The network's packed file has the SHA-256 {digest}. */

#ifndef MODEL_H
#define MODEL_H

#include <stdint.h>

#define MODEL_HEIGHT {height}
#define MODEL_WIDTH {width}
#define MODEL_CHANNELS {channels}
#define MODEL_CLASSES {classes}
#define MODEL_BUFFER_BYTES {buffer_bytes}
#define MODEL_LOGIT_SCALE {logit_scale} /* what one unit of a logit is worth; the code has no use for it */
#define MODEL_EXPORT 0x{export} /* the same in the source file of this export */

#ifdef __cplusplus
extern "C" {{
#endif

/* In the order of the logits, UTF-8. */
extern const char *const model_class_names[MODEL_CLASSES];

/* Classifies one image. Calls with different buffers may run at the same time.

   image: MODEL_HEIGHT x MODEL_WIDTH x MODEL_CHANNELS pixels, 0 to 255, channels side by side
   logits: MODEL_CLASSES integers; the largest is at the class
   buffer: MODEL_BUFFER_BYTES bytes at any address, with any content; must not overlap the others */
void model_logits(const uint8_t *image, int32_t *logits, void *buffer);
{many}
#ifdef __cplusplus
}}
#endif

#endif
"""

_MANY = """
/* Classifies n images, at most MODEL_MANY, in about the time of a few. */
#define MODEL_MANY {images}
void model_logits_many(const uint8_t *images, uint32_t n, int32_t *logits, void *buffer);
"""

# The beginning of a source file. A header of another network would give it a buffer of the wrong size.
_INCLUDE = """\
#include "model.h"

#if MODEL_EXPORT != 0x{export}
#error "model.h and model.c are of different exports: export both again, or delete the older one"
#endif

"""

# The code in a header.
_BEGIN = """
/* The code itself. Define MODEL_IMPLEMENTATION in one source file, in C or C++, before it includes this header. */
#if defined(MODEL_IMPLEMENTATION) && !defined(MODEL_IMPLEMENTED)
#define MODEL_IMPLEMENTED

"""
_END = "\n#endif\n"

_NAMES = """
const char *const model_class_names[MODEL_CLASSES] = {
"""

_EXAMPLE = """\
/* Classifies images of raw bytes, height x width x channels each:
   cc -O3 example.c model.c -o example && ./example < images */

#include "model.h"

#include <stdio.h>

int main(void)
{
    static uint8_t image[MODEL_HEIGHT * MODEL_WIDTH * MODEL_CHANNELS], buffer[MODEL_BUFFER_BYTES];
    int32_t logits[MODEL_CLASSES];
    while (fread(image, sizeof image, 1, stdin) == 1) {
        int k, best = 0;
        model_logits(image, logits, buffer);
        for (k = 0; k < MODEL_CLASSES; k++) {
            printf("%ld ", (long)logits[k]);
            best = logits[k] > logits[best] ? k : best;
        }
        printf("%s\\n", model_class_names[best]);
    }
    return 0;
}
"""
