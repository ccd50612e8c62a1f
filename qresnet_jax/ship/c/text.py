"""Writes pieces of C: constant arrays, strings, comments, and sources with their headers inlined."""

import copy
import pathlib
import re
import textwrap
from collections.abc import Iterable, Mapping

import numpy as np

_TYPES = {
    "u1": "uint8_t",
    "i1": "int8_t",
    "u2": "uint16_t",
    "i2": "int16_t",
    "u4": "uint32_t",
    "i4": "int32_t",
}
_TYPES |= {"u8": "uint64_t", "i8": "int64_t"}
_INCLUDE = re.compile(r'^#include "(?P<name>[^"\n]+)"\n', re.MULTILINE)
_HEADER = re.compile(
    r"(?P<comment>/\*.*?\*/\n)\n"
    r"(?:#ifndef (?P<guard>\w+_H)\n#define (?P=guard)\n\n)?"
    r'(?P<includes>(?:#include "[^"\n]+"\n)*)'
    r"(?P<text>.*)",
    re.DOTALL,
)


class Constants:
    """The constant arrays and structs of a file. Equal arrays are written once."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._names: dict[tuple[str, bytes], str] = {}
        self._structs: dict[str, tuple[str, str]] = {}
        self._ending = ""

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Returns the arrays by name."""
        return self._arrays

    @property
    def structs(self) -> Mapping[str, tuple[str, str]]:
        """Returns for the name of each struct its kind and its initializer."""
        return self._structs

    def array(self, name: str, x: np.ndarray) -> str:
        """Adds an array of integers; returns its C name, `model_NAME`, or that of an equal array."""
        name = f"model_{name}{self._ending}"
        known = self._names.setdefault((x.dtype.str, x.tobytes()), name)
        if (
            known == name
            and self._arrays.setdefault(name, x) is not x
            and not np.array_equal(self._arrays[name], x)
        ):
            raise ValueError(f"two different arrays are called {name}: give them different names")
        return known

    def struct(self, kind: str, name: str, fields: Mapping[str, object]) -> str:
        """Adds a struct of type `model_KIND`, with structs for fields that are mappings; returns the C expression of its address."""
        name = f"model_{name}{self._ending}"
        body = textwrap.fill(_initializers(fields), 100)
        self._structs[name] = kind, f"{{\n{textwrap.indent(body, '    ')}}}"
        return f"&{name}"

    def named(self, ending: str) -> "Constants":
        """Returns a view of the same constants, where names of what is added get an ending."""
        view = copy.copy(self)  # of the same dictionaries
        view._ending = ending
        return view

    @property
    def nbytes(self) -> int:
        """Returns the bytes of all arrays."""
        return sum(x.nbytes for x in self._arrays.values())

    def text(self) -> str:
        """Returns all definitions, for one file."""
        arrays = [f"static {array(name, x)}" for name, x in self._arrays.items()]
        structs = [f"static const model_{kind} {name} = {x};\n" for name, (kind, x) in self._structs.items()]
        return "\n".join([*arrays, *structs])


def _initializers(fields: Mapping[str, object]) -> str:
    values = {k: f"{{{_initializers(x)}}}" if isinstance(x, Mapping) else x for k, x in fields.items()}
    return ", ".join(f".{field} = {value}" for field, value in values.items())


def array(name: str, x: np.ndarray) -> str:
    """Returns the definition of a constant array."""
    suffix = "u" if x.dtype.itemsize == 8 and x.dtype.kind == "u" else ""  # above 2**63 it is needed
    numbers = textwrap.fill(", ".join(f"{value}{suffix}" for value in x.ravel().tolist()), 100)
    return f"const {array_type(x)} {name}[{x.size}] = {{\n{textwrap.indent(numbers, '    ')}}};\n"


def array_type(x: np.ndarray) -> str:
    """Returns the C type of an array's numbers."""
    return _TYPES[x.dtype.str[1:]]


def string(text: str) -> str:
    """Returns a string literal, where all but plain ASCII is octal escapes of UTF-8, and no trigraph can appear."""
    plain = set(range(32, 127)) - set(b'"\\?')
    data = text.encode("utf-8", "surrogatepass")
    return '"' + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in data) + '"'


def comment(text: str) -> str:
    """Returns text that cannot end a comment."""
    return re.sub(r"[^\w .,:=-]", "_", text, flags=re.ASCII)


def commented(title: str, lines: Iterable[str]) -> str:
    """Returns lines of a function, under a comment with a title."""
    return "".join(f"    {line}\n" for line in [f"/* {comment(title)} */", *lines])


def logits_function(align: int, calls: Iterable[str]) -> str:
    """Returns the definition of `model_logits`, whose `base` is the buffer's first address that is a multiple of `align`."""
    return (
        "void model_logits(const uint8_t *image, int32_t *logits, void *buffer)\n{\n"
        f"    uint8_t *const base = (uint8_t *)buffer + (0u - (uintptr_t)buffer) % {align}u;\n"
        + "\n".join(calls)
        + "}\n"
    )


def amalgamated(source: str, directory: pathlib.Path) -> str:
    """Returns C text with the headers that it includes by `"..."` in place of the `#include` lines.

    The result compiles to the same code: a header with an include guard is inserted once, and one without a
    guard each time that it is included. No such `#include` may depend on an `#if`.

    Args:
      source: C text.
      directory: the folder that its headers' names are relative to; names inside a header are relative to its
        own.
    """
    taken: set[pathlib.Path] = set()

    def of_header(path: pathlib.Path) -> str:
        if path in taken:
            return ""
        header = _HEADER.fullmatch(path.read_text(encoding="ascii"))
        assert header is not None, f"{path} does not have the form of a header, see _HEADER"
        text = header["text"]
        if header["guard"]:
            taken.add(path)
            text = text.removesuffix("#endif\n")
        # What the header needs comes before its comment, so that the comment stands above what it is about.
        return f"{expanded(header['includes'], path.parent)}\n{header['comment']}\n{expanded(text, path.parent)}\n"

    def expanded(text: str, folder: pathlib.Path) -> str:
        return _INCLUDE.sub(lambda match: of_header((folder / match["name"]).resolve()), text)

    return re.sub(r"\n{3,}", "\n\n", expanded(source, directory))


def renamed(text: str, prefix: str) -> str:
    """Returns C text with `prefix` in place of `model` in `model_...`, `MODEL_...`, `model.h` and `model.c`."""
    text = re.sub(r"\bmodel(?=_|\.[hc]\b)", prefix, text)
    return re.sub(r"\bMODEL(?=_)", prefix.upper(), text)
