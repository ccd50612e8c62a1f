"""Pickles of every dialect, for tests."""

import io
import pickle
import struct
from typing import ClassVar


class Python2Pickler(pickle._Pickler):
    """Writes str and bytes as Python 2 wrote its str: the published CIFAR archives are of that time."""

    dispatch: ClassVar = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode("latin1") if isinstance(value, str) else value
        if self.proto == 0:
            self.write(pickle.STRING + repr(value)[1:].encode() + b"\n")
        elif len(value) < 256:
            self.write(pickle.SHORT_BINSTRING + bytes([len(value)]) + value)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(value)) + value)

    dispatch[str] = dispatch[bytes] = save_string


def python2_pickle(value, protocol=2):
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol).dump(value)
    return buffer.getvalue().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def _python2(protocol):
    return lambda value: python2_pickle(value, protocol)


def _python3(protocol):
    return lambda value: pickle.dumps(value, protocol)


PICKLERS = {
    **{f"python2, protocol {n}": _python2(n) for n in range(3)},
    **{f"python3, protocol {n}": _python3(n) for n in range(6)},
    "bytes as keys": lambda value: pickle.dumps({key.encode(): v for key, v in value.items()}, 2),
    "names as they are": lambda value: pickle.dumps(value, 2, fix_imports=False),
}
