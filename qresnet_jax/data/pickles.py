"""Reads pickled dictionaries of numbers, texts and arrays without Python's object protocol.

Python's own unpickler calls functions and sets attributes on behalf of whoever wrote a file, and hooks that restrict it
leave gaps. So this module interprets the opcodes itself, and knows only those that a pickle of such a dictionary needs,
of Python 2 or 3 and of any protocol. The names in a pickle select functions of this module; nothing is imported. Arrays
are views of the bytes that the pickle holds, so what is read never takes much more memory than the file.
"""

import codecs
import io
import math
import pickletools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from qresnet_jax.errors import DataError

# Opcodes by what they push: their argument, a constant, or a tuple of so many values from the stack.
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_SCALARS = (type(None), bool, int, float, str, bytes, bytearray, np.generic)
_OPCODES = {ord(opcode.code): opcode for opcode in pickletools.opcodes}


def load_pickle(data: bytes, where: str) -> dict[str, Any]:
    """Reads a dictionary of numbers, texts, arrays of numbers, and lists and dictionaries of these.

    Args:
      data: the pickle.
      where: what messages call it.

    Returns:
      The dictionary, with str keys. Arrays may be read-only; texts that Python 2 wrote are bytes.

    Raises:
      DataError: the pickle is cut or damaged, is no dictionary, or asks for anything else than the values above.
    """
    try:
        loaded = _Interpreter(data).run()
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
    except Exception as error:  # a damaged pickle can fail in any opcode, with any exception
        raise DataError(
            f"{where}: not a complete pickle ({error!s:.200}): copy the archive again."
        ) from error
    if not isinstance(loaded, dict):
        raise DataError(
            f"{where}: expected a pickled dictionary, got {type(loaded).__name__}: copy the archive again."
        )
    return {key.decode("latin1") if isinstance(key, bytes) else key: value for key, value in loaded.items()}


def _refused(what: str) -> DataError:
    return DataError(
        f"refused {what:.200}: CIFAR archives hold only numbers, texts, and arrays of numbers. Get the archive from its "
        "publisher."
    )


class _Function(NamedTuple):
    """Stands for a function that a pickle names."""

    arguments: int  # how many it takes
    call: Callable[..., Any]


class _Dtype:
    """Stands for a dtype, whose byte order the pickle sets after it has made it."""

    def __init__(self, code: str) -> None:
        self.code, self.order = code, ""

    def build(self, state: object) -> None:
        # All but the byte order says: no fields, no names, no subarray, and size, alignment and flags as usual.
        match state:
            case (3, order, None, None, None, -1, -1, 0) if not self.order and _text(order) in (
                "<",
                ">",
                "|",
                "=",
            ):
                self.order = _text(order)
            case _:
                raise _refused("to change the state of a dtype")


class _Array:
    """Stands for an array, whose content the pickle sets after it has made it."""

    def __init__(self) -> None:
        self.value: np.ndarray | None = None

    def build(self, state: object) -> None:
        match state:
            case (1, shape, dtype, bool() | 0 | 1 as fortran, content) if self.value is None:
                self.value = _array(content, dtype, shape, "F" if fortran else "C")
            case _:
                raise _refused("to change the state of an array")


class _Interpreter:
    """Runs the opcodes of one pickle."""

    def __init__(self, data: bytes) -> None:
        self.file = io.BytesIO(data)
        self.stack: list[Any] = []
        self.marks: list[int] = []  # the heights of the stack at its marks
        self.memo: dict[int, Any] = {}
        # How many bytes may still be made from texts: a memo would let a small file encode one text a million times.
        self.budget = len(data)

    def run(self) -> object:
        """Returns the pickled value."""
        while True:
            code = self.file.read(1)
            opcode = _OPCODES.get(code[0]) if code else None
            if opcode is None:
                raise ValueError(f"unknown opcode {code!r}" if code else "it ends early")
            if opcode.name == "STOP":
                return _plain(self._pop())
            if opcode.name == "STRING":  # its reader in pickletools knows ASCII only
                self.stack.append(_unquoted(self.file.readline()))
            else:
                self._step(opcode.name, opcode.arg.reader(self.file) if opcode.arg else None)

    def _step(self, name: str, argument: Any) -> None:
        if name in _VALUES:
            self.stack.append(argument)
        elif name in ("BINSTRING", "SHORT_BINSTRING"):
            self.stack.append(argument.encode("latin1"))
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _TUPLES:
            self.stack.append(tuple(reversed([self._pop() for _ in range(_TUPLES[name])])))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = self._top()
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[argument])
        elif name == "MARK":
            self.marks.append(len(self.stack))
        elif name == "TUPLE":
            self.stack.append(tuple(self._to_mark()))
        elif name in ("EMPTY_LIST", "LIST"):
            self.stack.append([_plain(value) for value in self._to_mark()] if name == "LIST" else [])
        elif name in ("EMPTY_DICT", "DICT"):
            items = self._to_mark() if name == "DICT" else []
            self.stack.append({})
            self._set_items(items)
        elif name in ("APPEND", "APPENDS"):
            values = [self._pop()] if name == "APPEND" else self._to_mark()
            if type(self._top()) is not list:
                raise _refused("to append to what is no list")
            self._top().extend(map(_plain, values))
        elif name in ("SETITEM", "SETITEMS"):
            self._set_items([self._pop(), self._pop()][::-1] if name == "SETITEM" else self._to_mark())
        elif name == "GLOBAL":
            self.stack.append(_named(*argument.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            function, module = self._pop(), self._pop()
            self.stack.append(_named(_text(module), _text(function)))
        elif name == "REDUCE":
            self._call()
        elif name == "BUILD":
            state = self._pop()
            if not isinstance(self._top(), _Array | _Dtype):
                raise _refused("to change the state of what is no array")
            self._top().build(state)
        elif name not in ("PROTO", "FRAME"):
            raise _refused(f"the opcode {name}")

    def _top(self) -> Any:
        if len(self.stack) <= (self.marks[-1] if self.marks else 0):
            raise ValueError("a value is missing")
        return self.stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self.stack.pop()

    def _to_mark(self) -> list[Any]:
        start = self.marks.pop()
        values = self.stack[start:]
        del self.stack[start:]
        return values

    def _set_items(self, items: list[Any]) -> None:
        if type(self._top()) is not dict:
            raise _refused("to set an item of what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes):
                raise _refused(f"a key of type {type(key).__name__}")
            self._top()[key] = _plain(value)

    def _call(self) -> None:
        arguments, function = self._pop(), self._pop()
        if not isinstance(function, _Function):
            raise _refused("to call what is no function")
        if type(arguments) is not tuple or len(arguments) != function.arguments:
            raise _refused("a call with unusual arguments")
        result = function.call(*arguments)
        if function.call is _latin1:
            self.budget -= len(result)
            if self.budget < 0:
                raise _refused("to encode the same text again and again")
        self.stack.append(result)


def _plain(value: object) -> object:
    """Returns a value that may stand in a list or dictionary; what these hold themselves has been checked before."""
    if isinstance(value, _Array) and value.value is not None:
        return value.value
    if type(value) in (list, dict, np.ndarray) or isinstance(value, _SCALARS):
        return value
    if type(value) is tuple and all(isinstance(item, _SCALARS) for item in value):
        return value
    raise _refused(f"a value of type {type(value).__name__.strip('_').lower()}")


def _unquoted(line: bytes) -> bytes:
    """Returns the bytes of a str as Python 2 wrote it in protocol 0, which is its `repr` and a line break."""
    if not re.fullmatch(rb"('.*'|\".*\")\n", line, re.DOTALL):
        raise ValueError("a text without its quotes")
    return codecs.escape_decode(line[1:-2])[0]


def _text(value: object) -> str:
    """Returns a str that may have been pickled by Python 2."""
    text = value.decode("latin1") if isinstance(value, bytes) else value
    if not isinstance(text, str):
        raise _refused(f"a {type(value).__name__} in place of a text")
    return text


# ---- What stands for the functions that a pickle names -----------------------------------------------------

_NDARRAY = object()  # stands for the class `numpy.ndarray`, which a pickle only names


def _array(content: object, dtype: object, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(content, bytes | bytearray) or not isinstance(dtype, _Dtype):
        raise _refused("an array of objects")
    if type(shape) is not tuple or len(shape) > 32 or order not in ("C", "F"):
        raise _refused("an array of an unusual form")
    if not all(type(n) is int and 0 <= n < 2**48 for n in shape):
        raise _refused("an array of an impossible shape")
    number = np.dtype(dtype.order + dtype.code)
    if math.prod(shape) * number.itemsize != len(content):
        raise ValueError(f"{len(content)} bytes for an array of shape {shape}")
    return np.ndarray(shape, number, content, order=order)


def _reconstruct(kind: object, shape: object, code: object) -> _Array:
    if kind is not _NDARRAY or shape != (0,) or _text(code) != "b":
        raise _refused("an array of an unusual kind")
    return _Array()


def _scalar(dtype: object, content: object) -> Any:
    return _array(content, dtype, (), "C")[()]


def _dtype(code: object, align: object, copy: object) -> _Dtype:
    if not re.fullmatch("b1|[iu][1248]|f[248]", _text(code)) or align not in (0, 1) or copy not in (0, 1):
        raise _refused(f"an array of type {_text(code)!r}")
    return _Dtype(_text(code))


def _latin1(text: object, encoding: object) -> bytes:
    if type(text) is not str or encoding != "latin1":
        raise _refused("an encoding other than latin1")
    return text.encode("latin1")


_NAMED: dict[str, object] = {
    "numpy.ndarray": _NDARRAY,
    "numpy.dtype": _Function(3, _dtype),
    "numpy.core.multiarray._reconstruct": _Function(3, _reconstruct),
    "numpy.core.multiarray.scalar": _Function(2, _scalar),
    "numpy.core.numeric._frombuffer": _Function(4, _array),
    "_codecs.encode": _Function(2, _latin1),  # how Python 3 writes bytes for Python 2
    "__builtin__.bytes": _Function(0, bytes),  # the same, if they are empty
    "builtins.bytes": _Function(0, bytes),
}


def _named(module: str, name: str) -> object:
    """Returns what stands for the function or class that a pickle names."""
    found = _NAMED.get(f"{module.replace('numpy._core', 'numpy.core')}.{name}")  # renamed in NumPy 2
    if found is None:
        raise _refused(f"to load {module}.{name}")
    return found
