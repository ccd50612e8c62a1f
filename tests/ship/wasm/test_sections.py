"""Modules are taken apart and put together without a loss."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qresnet_jax.ship.wasm import sections

# (module (memory 1) (data (i32.const 100000) "abc") (data (i32.const 7) "")), by hand
MODULE = bytes.fromhex("0061736d 01000000 05 03 01 00 01 0b 10 02 00 41 a08d06 0b 03 616263 00 41 07 0b 00")


def test_a_module_has_the_sections_that_the_specification_says():
    assert sections.split(MODULE) == [(5, b"\1\0\1"), (11, MODULE[15:])]
    assert sections.segments(MODULE[15:]) == [(100_000, b"abc"), (7, b"")]


contents = st.lists(st.tuples(st.integers(0, 12), st.binary(max_size=300)))


@given(contents)
def test_what_is_joined_is_split_again(parts):
    assert sections.split(sections.join(parts)) == parts
    assert sections.join(parts).endswith(sections.body(parts))


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.binary(max_size=300)), max_size=200))
def test_segments_are_read_as_they_were_written(parts):
    kind, content = sections.data_section(parts)
    assert kind == sections.DATA and sections.segments(content) == parts


@given(st.binary(max_size=300))
def test_a_custom_section_is_found_by_its_name(content):
    module = MODULE + sections.body([sections.custom("other", b"1"), sections.custom("mine", content)])
    assert sections.custom_content(module, "mine") == content
    assert sections.custom_content(module, "yours") is None


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (b"", "no WebAssembly module"),
        (b"\0asm\2\0\0\0", "no WebAssembly module of version 1"),
        (MODULE[:-1], "ends too early"),
        (MODULE[:9], "ends too early"),
        (MODULE + b"\0\xff", "ends too early"),
    ],
)
def test_what_is_no_module_is_refused(module, message):
    with pytest.raises(ValueError, match=message):
        sections.split(module)


def test_passive_segments_are_refused():
    with pytest.raises(ValueError, match="not known"):
        sections.segments(b"\1\1\3abc")
