"""Pickles of numbers, texts and arrays are read whoever wrote them; whatever else a pickle may do is refused, undone."""

import copyreg
import io
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from qresnet_jax.data.pickles import load_pickle
from qresnet_jax.errors import DataError
from tests.data.pickle_cases import PICKLERS

VALUE = {
    "rows": np.arange(6, dtype=np.uint8).reshape(2, 3),
    "columns": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "big endian": np.arange(3, dtype=">i2"),
    "labels": np.arange(3),
    "again": np.arange(2),  # its dtype comes from the memo
    "scalar": np.int64(-3),
    "none": np.zeros((0, 3), np.uint8),
    "numbers": [0, -1, 255, 256, 70_000, 2**40, -(2**70), 0.5, True, None],
    "texts": ["frog", "\x00\n'\"\xff\\"],
    "pair": (1, 2),
    "nested": {"list": [[1], [2]]},
    "empty": [b"", [], {}, ()],
}


@pytest.mark.parametrize("dumps", PICKLERS.values(), ids=PICKLERS.keys())
def test_every_dialect_gives_the_same_values(dumps):
    got = load_pickle(dumps(VALUE), "here")
    assert got.keys() == VALUE.keys()
    for key, expected in VALUE.items():
        if isinstance(expected, np.ndarray):
            np.testing.assert_array_equal(got[key], expected)
            assert (
                got[key].dtype == expected.dtype
                and got[key].flags.f_contiguous == expected.flags.f_contiguous
            )
    for key in ("scalar", "numbers", "pair"):
        assert got[key] == VALUE[key] and type(got[key]) is type(VALUE[key])
    texts = [t.decode("latin1") if isinstance(t, bytes) else t for t in got["texts"]]
    assert texts == VALUE["texts"]
    (inner,) = got["nested"].values()
    assert inner == [[1], [2]]
    assert len(got["empty"]) == 4 and not any(got["empty"])


@pytest.mark.parametrize("dumps", PICKLERS.values(), ids=PICKLERS.keys())
def test_no_part_of_a_pickle_passes_for_the_whole(dumps):
    data = dumps(VALUE)
    for end in (*range(0, len(data), 7), len(data) - 1):
        with pytest.raises(DataError, match="here: not a complete pickle"):
            load_pickle(data[:end], "here")


@pytest.mark.parametrize("value", [[1], 3, "text", None, np.arange(3), (1, 2)])
def test_only_a_dictionary_is_accepted(value):
    with pytest.raises(DataError, match="here: expected a pickled dictionary, got"):
        load_pickle(pickle.dumps(value), "here")


class Reduced:
    """Pickles as any call, with any state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


FROMBUFFER = np.zeros(0).__reduce_ex__(5)[0]  # a function written in Python, so it takes attributes
U1 = np.dtype("u1")

VALUES = {
    "array of objects": np.array([{}], dtype=object),
    "array of texts": np.zeros(2, "U3"),
    "array of bytes": np.zeros(2, "S3"),
    "array of times": np.zeros(2, "M8[s]"),
    "complex array": np.zeros(2, complex),
    "record": np.zeros(2, [("a", "u1")]),
    "record with objects": np.zeros(2, [("a", "O")]),
    "dtype": np.dtype([("a", "u1")]),
    "dtype with metadata": np.zeros(2, np.dtype("u1", metadata={"a": 1})),
    "subclass": np.ma.zeros(2),
    "eval": eval,
    "np.load": np.load,
    "pickle.loads": pickle.loads,
    "io.open": io.open,
    "class": np.ndarray,
    "allowed function": FROMBUFFER,
    "set": {1},
    "complex": 1j,
    "bytearray of any size": Reduced(bytearray, (2**40,)),
    "bytes of any size": Reduced(bytes, (2**40,)),
    "range": range(2**40),
    "other codec": Reduced(__import__("_codecs").encode, ("text", "rot13")),
    "decoder": Reduced(__import__("_codecs").decode, (b"text", "latin1")),
    "array of any size": Reduced(np.ndarray, ((2**40,),)),
    "fresh array of any size": Reduced(np.zeros(0).__reduce__()[0], (np.ndarray, (2**40,), b"b")),
    "fresh array of objects": Reduced(np.zeros(0).__reduce__()[0], (np.ndarray, (0,), b"O")),
    "dtype from a dictionary": Reduced(np.dtype, ({"names": ["a"], "formats": ["O"]}, False, True)),
    "dtype from a list": Reduced(np.dtype, ([("a", "O")], False, True)),
    "dtype from texts": Reduced(np.dtype, ("u1,O", False, True)),
    "too few arguments": Reduced(np.dtype, ("u1",)),
    "too many arguments": Reduced(FROMBUFFER, (b"", U1, (0,), "C", None)),
    "state of a function": Reduced(FROMBUFFER, (b"", U1, (0,), "C"), {"owned": 1}),
    "key": {(1, 2): 3},
}


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_other_values_are_refused(value, protocol):
    with pytest.raises(DataError, match=r"^here: refused [^\n]{,300}Get the archive from its publisher\.$"):
        load_pickle(pickle.dumps({"data": value}, protocol), "here")


@pytest.mark.parametrize("protocol", range(6))
def test_a_call_is_refused_and_not_made(tmp_path, protocol):
    data = pickle.dumps({"data": Reduced(os.system, (f"touch {tmp_path / 'owned'}",))}, protocol)
    with pytest.raises(DataError, match=r"here: refused to load \w+.system"):
        load_pickle(data, "here")
    assert not (tmp_path / "owned").exists()


# ---- What no pickler writes, opcode by opcode -----------------------------------------------------------------


def name(module, function):
    return f"c{module}\n{function}\n".encode()


def text(value):
    return b"U" + bytes([len(value)]) + value.encode()


NDARRAY, DTYPE = name("numpy", "ndarray"), name("numpy", "dtype")
RECONSTRUCT, ENCODE = name("numpy.core.multiarray", "_reconstruct"), name("_codecs", "encode")
SCALAR = name("numpy.core.multiarray", "scalar")
NEW_ARRAY = RECONSTRUCT + NDARRAY + b"K\0\x85" + text("b") + b"\x87R"
MINUS = b"J\xff\xff\xff\xff"
DTYPE_STATE = b"(K\x03" + text("|") + b"NNN" + MINUS + MINUS + b"K\0tb"


def dtype(code="u1", state=DTYPE_STATE):
    return DTYPE + text(code) + b"K\0K\1\x87R" + state


def state(shape=b"K\2\x85", of=None, content=b"U\2hi"):
    """The BUILD of an array of the numbers 104 and 105, to spoil it."""
    return b"(K\1" + shape + (of or dtype()) + b"\x89" + content + b"tb"


SET_OWNED = b"}" + text("owned") + b"K\1sb"  # BUILD with a dictionary: attributes
SET_SLOT = b"N}" + text("owned") + b"K\1s\x86b"  # BUILD with a pair: attributes that are slots
OBJECT_STATES = {
    "object flag": b"(K\x03" + text("|") + b"NNN" + MINUS + MINUS + b"K\x3ftb",
    "object size": b"(K\x03" + text("|") + b"NNNK\x08K\x08K\x3ftb",
    "object as order": b"(K\x03" + text("O") + b"NNN" + MINUS + MINUS + b"K\0tb",
    "object fields": b"(K\x03"
    + text("|")
    + b"N"
    + text("a")
    + b"\x85}"
    + text("a")
    + dtype()
    + b"K\0\x86s"
    + b"K\1K\1K\x10tb",
    "subarray": b"(K\x03" + text("|") + dtype() + b"K\2\x85\x86NNK\2K\1K\0tb",
    "metadata": b"(K\x04" + text("|") + b"NNN" + MINUS + MINUS + b"K\0}tb",
    "short state": b"(K\x03" + text("|") + b"tb",
    "a dictionary": b"}b",
    "nothing": b"Nb",
    "twice": DTYPE_STATE + DTYPE_STATE,
}
HOSTILE = {
    **{f"attributes of {n}": f + SET_OWNED for n, f in {"reconstruct": RECONSTRUCT, "dtype": DTYPE}.items()},
    "attributes of _frombuffer": name("numpy.core.numeric", "_frombuffer") + SET_OWNED,
    "attributes of _codecs.encode": ENCODE + SET_OWNED,
    "attributes of a class": NDARRAY + SET_OWNED,
    "slots of a function": RECONSTRUCT + SET_SLOT,
    "attributes of an array": NEW_ARRAY + SET_OWNED,
    "slots of an array": NEW_ARRAY + SET_SLOT,
    "attributes of a dtype": dtype(state=SET_OWNED),
    "slots of a dtype": dtype(state=SET_SLOT),
    "state of a list": b"]" + SET_OWNED,
    "state of a number": b"K\1" + SET_OWNED,
    "state of bytes": text("x") + SET_OWNED,
    "state of a tuple": b"K\1\x85" + SET_OWNED,
    "state of a scalar": SCALAR + dtype() + text("x") + b"\x86R" + SET_OWNED,
    "array built twice": NEW_ARRAY + state() + state(),
    "array never built": NEW_ARRAY,
    **{f"dtype: {n}": NEW_ARRAY + state(of=dtype(state=s)) for n, s in OBJECT_STATES.items()},
    "dtype code O": NEW_ARRAY + state(of=dtype("O8")),
    "dtype code V": NEW_ARRAY + state(of=dtype("V1")),
    "dtype that is a text": NEW_ARRAY + state(of=text("u1")),
    "dtype that is a class": NEW_ARRAY + state(of=DTYPE),
    "dtype used before it is built, from the memo": NEW_ARRAY
    + state(of=dtype(state=b"q\1"))
    + b"0h\1"
    + OBJECT_STATES["object flag"],
    "array with a list of objects": NEW_ARRAY + state(content=b"]K\1aK\2a"),
    "array with an array": NEW_ARRAY + state(content=NEW_ARRAY + state()),
    "array with a list as shape": NEW_ARRAY + state(shape=b"]K\2a"),
    "array with a negative shape": NEW_ARRAY + state(shape=MINUS + MINUS + b"\x86"),
    "array with a huge shape": NEW_ARRAY + state(shape=b"\x8a\x08" + b"\x7f" * 8 + b"\x85"),
    "array in a list before it is built": b"]q\1" + NEW_ARRAY + b"q\2ah\2" + state() + b"0",
    "array with 3,000 axes": NEW_ARRAY + state(shape=b"(" + b"K\1" * 3000 + b"t"),
    "scalar of an object": SCALAR + dtype(state=OBJECT_STATES["object flag"]) + text("x") + b"\x86R",
    "call with a list": DTYPE + b"]R",
    "call with no tuple": DTYPE + text("u1") + b"R",
    "call of a text": text("eval") + text("1") + b"\x85R",
    "call of a class": NDARRAY + b"K\2\x85\x85R",
    "NEWOBJ": NDARRAY + b"K\2\x85\x85\x81",
    "NEWOBJ of a function": DTYPE + text("O") + b"\x85\x81",
    "NEWOBJ_EX": NDARRAY + b"K\2\x85\x85}\x92",
    "OBJ": b"(" + NDARRAY + b"K\2\x85o",
    "INST": b"(K\1inumpy\nndarray\n",
    "INST of a command": b"(" + text("true") + b"ios\nsystem\n",
    "EXT1": b"\x82\xf0",
    "EXT2": b"\x83\xf0\0",
    "EXT4": b"\x84\xf0\0\0\0",
    "persistent id": b"Pid\n",
    "binary persistent id": text("id") + b"Q",
    "buffer from outside": b"\x97",
    "read-only buffer": text("x") + b"\x98",
    "set": b"\x8f(K\1\x90",
    "frozen set": b"(K\1\x91",
    "DUP": b"K\x012\x86",
    "POP": b"K\1K\x020",
    "POP_MARK": b"K\1(K\x021",
    "dotted name": name("numpy", "ndarray.__class__"),
    "name with a space": name("numpy ndarray", ""),
    "name from the stack": text("os") + text("system") + b"\x93",
    "long name": name("x" * 5000, "y" * 5000),
    "append to a dictionary": b"}K\1a",
    "append to an array": NEW_ARRAY + state() + b"K\1a",
    "item of a list": b"]K\0K\1s",
    "item of an array": NEW_ARRAY + state() + b"K\0K\1s",
    "key that is a number": b"}K\0K\1s",
    "key that is an array": b"}" + NEW_ARRAY + state() + b"K\1s",
    "tuple of tuples": b"K\1\x85\x85",
}


def dictionary(value):
    return b"\x80\x02}" + text("data") + value + b"s."


def test_the_cases_below_are_spoilt_forms_of_what_is_read():
    np.testing.assert_array_equal(load_pickle(dictionary(NEW_ARRAY + state()), "here")["data"], [104, 105])
    assert load_pickle(dictionary(SCALAR + dtype() + text("x") + b"\x86R"), "here")["data"] == 120
    assert load_pickle(dictionary(ENCODE + b"X\1\0\0\0xX\6\0\0\0latin1\x86R"), "here") == {"data": b"x"}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_pickle_is_refused_in_one_short_line_and_changes_nothing(value, monkeypatch):
    monkeypatch.setitem(copyreg._inverted_registry, 0xF0, ("os", "system"))
    with pytest.raises(DataError, match=r"^here: refused [^\n]{,300}Get the archive from its publisher\.$"):
        load_pickle(dictionary(value), "here")
    assert not vars(FROMBUFFER) and not hasattr(np.ndarray, "owned")


MALFORMED = {
    "below the mark": b"(K\1\x86",
    "no mark": b"t",
    "no memo": b"h\7",
    "negative memo": b"g-1\n",
    "odd items": b"}(K\1u",
    "unknown opcode": b"\xff",
    "wrong size": NEW_ARRAY + state(shape=b"K\3\x85"),
    "axes of 0 and of 2**47": NEW_ARRAY
    + state(
        shape=b"K\0" + b"\x8a\x06" + b"\xff" * 5 + b"\x7f" + b"\x8a\x06" + b"\xff" * 5 + b"\x7f\x87",
        content=text(""),
    ),
    "long text": b"X\xff\xff\xff\x7fx",
    "text of 2**62 bytes": b"\x8d" + struct.pack("<Q", 2**62) + b"x",
    "bytes of 2**62 bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"x",
    "byte array of 2**62 bytes": b"\x96" + struct.pack("<Q", 2**62) + b"x",
    "number of 2**31 bytes": b"\x8b\xff\xff\xff\x7fx",
    "number of 10,000 digits": b"I" + b"9" * 10_000 + b"\n",
    "text without quotes": b"Sabc\n",
    "text with one quote": b"S'abc\n",
}


@pytest.mark.parametrize("value", MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_pickle_is_reported_in_one_short_line(value):
    with pytest.raises(
        DataError, match=r"^here: not a complete pickle \([^\n]{,200}\): copy the archive again\.$"
    ):
        load_pickle(dictionary(value), "here")


MILLION = struct.pack("<i", 10**6)
BOMBS = {
    "memo index of 2**32 - 1": b"]r\xff\xff\xff\xff",
    "frame of 2**62 bytes": b"\x95" + struct.pack("<Q", 2**62) + b"]",
    "list that holds itself": b"]q\1h\1a",
    "2**60 lists": b"](]q\1" + b"](h\1h\1eq\1" * 60 + b"e",
    "300 arrays of the same bytes": b"](B"
    + MILLION
    + bytes(10**6)
    + b"q\1"
    + (NEW_ARRAY + state(shape=b"J" + MILLION + b"\x85", content=b"h\1")) * 300
    + b"e",
}


@pytest.mark.parametrize("value", BOMBS.values(), ids=BOMBS.keys())
def test_a_small_pickle_never_fills_the_memory(value):
    data = dictionary(value)
    tracemalloc.start()
    try:
        assert list(load_pickle(data, "here")) == ["data"]
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data) + 100_000
    finally:
        tracemalloc.stop()


def test_one_text_is_not_encoded_again_and_again():
    again = ENCODE + b"h\1X\6\0\0\0latin1\x86R"
    data = dictionary(b"](X" + MILLION + bytes(10**6) + b"q\1" + again * 300 + b"e")
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="refused to encode the same text again and again"):
            load_pickle(data, "here")
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data)
    finally:
        tracemalloc.stop()
