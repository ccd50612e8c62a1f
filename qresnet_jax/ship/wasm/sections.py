"""Takes WebAssembly modules apart into their sections, and puts them together: two builds of a network in one file."""

from collections.abc import Iterable

CUSTOM, DATA, DATA_COUNT = 0, 11, 12  # kinds of sections
_HEAD = b"\0asm\1\0\0\0"


def split(module: bytes) -> list[tuple[int, bytes]]:
    """Returns the sections of a module: the kind and the content of each.

    Raises:
      ValueError: if it is no module.
    """
    if module[:8] != _HEAD:
        raise ValueError("this is no WebAssembly module of version 1")
    sections, at = [], 8
    while at < len(module):
        length, begin = _read_number(module, at + 1)
        sections.append((module[at], module[begin : begin + length]))
        at = begin + length
    if at != len(module):
        raise ValueError("this WebAssembly module ends too early")
    return sections


def join(sections: Iterable[tuple[int, bytes]]) -> bytes:
    """Returns the module that has these sections."""
    return _HEAD + body(sections)


def body(sections: Iterable[tuple[int, bytes]]) -> bytes:
    """Returns sections as they follow each other in a module."""
    return b"".join(bytes([kind]) + number(len(content)) + content for kind, content in sections)


def custom(name: str, content: bytes) -> tuple[int, bytes]:
    """Returns a custom section, which engines pass over."""
    return CUSTOM, number(len(name)) + name.encode("ascii") + content


def custom_content(module: bytes, name: str) -> bytes | None:
    """Returns the content of a module's custom section, or None if it has none of this name."""
    wanted = number(len(name)) + name.encode("ascii")
    for kind, content in split(module):
        if kind == CUSTOM and content.startswith(wanted):
            return content[len(wanted) :]
    return None


def segments(data: bytes) -> list[tuple[int, bytes]]:
    """Returns the address and the bytes of each segment of a section of data.

    Raises:
      ValueError: if one is not simply copied to an address.
    """
    count, at = _read_number(data, 0)
    found = []
    for _ in range(count):
        if data[at : at + 2] != b"\0\x41":
            raise ValueError("this segment of data is of a kind that is not known")
        address, at = _read_number(data, at + 2)
        length, at = _read_number(data, at + 1)  # after the end of the address
        found.append((address, data[at : at + length]))
        at += length
    return found


def data_section(parts: Iterable[tuple[int, bytes]]) -> tuple[int, bytes]:
    """Returns the section of data that has these segments; see `segments`."""
    texts = [
        b"\0\x41" + _address(address) + b"\x0b" + number(len(content)) + content for address, content in parts
    ]
    return DATA, number(len(texts)) + b"".join(texts)


def _address(value: int) -> bytes:
    """Returns a number of 32 bits in signed LEB128, with digits for all bits."""
    digits = [value >> shift & 127 | 128 for shift in (0, 7, 14, 21)]
    return bytes([*digits, value >> 28 & 15])


def number(value: int) -> bytes:
    """Returns a number in LEB128."""
    digits = bytearray()
    while value > 127:
        digits.append(value & 127 | 128)
        value >>= 7
    return bytes([*digits, value])


def _read_number(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number in LEB128, and where it ends."""
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            return value, at
    raise ValueError("this WebAssembly module ends too early")
