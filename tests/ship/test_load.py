"""`load_packed`: files and the zoo, every engine, every format that a packed network is written in."""

import dataclasses

import numpy as np
import pytest

from qresnet_jax.errors import ExportError, PackedError
from qresnet_jax.ship import reference
from qresnet_jax.ship.formats import ENDINGS
from qresnet_jax.ship.load import ENGINES, find_packed, load_packed, zoo
from qresnet_jax.ship.packed.file import packed_bytes, save_packed


@pytest.mark.parametrize("engine", ENGINES)
def test_packed_networks_predict_as_the_reference(network, path, make_images, engine, request):
    if engine == "c":
        request.getfixturevalue("compiler")
    images = make_images(20, (8, 8, 3))
    packed = load_packed(path, engine=engine)
    expected = reference.logits(network, images)
    np.testing.assert_array_equal(packed.logits(images), expected)
    np.testing.assert_array_equal(packed.predict(images), expected.argmax(-1))
    assert packed.logits(images).dtype == np.int32
    assert packed.predict(images).dtype.kind == "i"
    assert packed.logit_scale == network.logit_scale
    assert packed.class_names == ("a", "b", "c", "d", "e")
    assert packed.nbytes == path.stat().st_size == len(packed_bytes(network))


def test_the_engine_is_jax_unless_asked_otherwise(path):
    assert load_packed(path).engine == "jax"


def test_unknown_engines_are_refused(path):
    with pytest.raises(ValueError, match="engine must be one of jax, c, numpy, got 'abacus'"):
        load_packed(path, engine="abacus")


@pytest.mark.parametrize("format", ENDINGS)
def test_a_packed_network_is_written_in_every_format(path, tmp_path, format):
    files = load_packed(path, engine="numpy").export(tmp_path / "out" / "model", format)
    assert files and all(file.stat().st_size > 0 and file.is_relative_to(tmp_path / "out") for file in files)
    if format == "packed":
        assert files[0].read_bytes() == path.read_bytes()


def test_unknown_formats_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="format must be one of packed, c, onnx, stablehlo, got 'elf'"):
        load_packed(path, engine="numpy").export(tmp_path / "x", "elf")
    with pytest.raises(
        ValueError, match="got 'qonnx'; qonnx is written from a trained run, by --mode=export"
    ):
        load_packed(path, engine="numpy").export(tmp_path / "x", "qonnx")
    assert not (tmp_path / "x").exists()


def test_a_packed_network_says_what_it_is(path):
    shown = repr(load_packed(path, engine="numpy"))
    assert shown == f"PackedNetwork(8x8x3 images, 5 classes, {path.stat().st_size} bytes, engine='numpy')"


@pytest.mark.parametrize("format", ["c", "stablehlo"])
def test_formats_that_need_a_size_of_images_say_so(network, tmp_path, format):
    save_packed(dataclasses.replace(network, height=None, width=None), tmp_path / "any")
    with pytest.raises(ExportError, match="any size"):
        load_packed(tmp_path / "any", engine="numpy").export(tmp_path / "x", format)


def test_what_is_neither_a_file_nor_in_the_zoo_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(PackedError, match="nothing cannot be read: there is no such file, nor such a model"):
        load_packed(tmp_path / "nothing")
    with pytest.raises(PackedError, match="digits_resnet8_w1a2"):
        load_packed("nonsense")


def test_a_file_goes_before_the_zoo(path, tmp_path, monkeypatch):
    name = next(iter(zoo()))
    assert find_packed(name) == zoo()[name]
    (tmp_path / name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert find_packed(name).resolve() == tmp_path / name


def test_the_c_prefix_can_be_chosen(path, tmp_path):
    files = load_packed(path, engine="numpy").export(tmp_path, "c", c_prefix="net", c_profile="small")
    assert [file.name for file in files] == ["net.h", "net.c", "example.c"]
    assert "void net_logits(" in files[0].read_text() and "NET_BUFFER_BYTES" in files[0].read_text()
