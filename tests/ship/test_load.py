"""`load_packed`: files and the zoo, every engine, every format that a packed network is written in."""

import copy
import dataclasses
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

from qresnet_jax.errors import CompilerError, ExportError, PackedError
from qresnet_jax.ship import load, reference
from qresnet_jax.ship.c import engine as c_engine
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


def test_unknown_engines_are_refused(path):
    with pytest.raises(ValueError, match="engine must be one of auto, jax, c, numpy, got 'abacus'"):
        load_packed(path, engine="abacus")


# The engine "auto".


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and compilation that takes little time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(c_engine, "FLAGS", ("-std=c99", "-Os", "-shared", "-fPIC"))
    return tmp_path / "cache"


@pytest.fixture
def reference_for_jax(monkeypatch):
    """NumPy in place of JAX, which takes seconds to compile a network."""
    monkeypatch.setitem(ENGINES, "jax", ENGINES["numpy"])


@pytest.mark.usefixtures("cache", "compiler")
def test_the_engine_is_c_where_there_is_a_compiler(path, make_images):
    packed = load_packed(path)
    packed.logits(make_images(2, (8, 8, 3)))
    assert packed.engine == "c" and packed.network in c_engine._compiled
    assert repr(packed).endswith("engine='c', chosen by 'auto')")


@pytest.mark.usefixtures("cache")
def test_without_a_compiler_the_engine_is_jax(path, network, make_images, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    packed, images = load_packed(path), make_images(2, (8, 8, 3))
    assert packed.engine == "jax" and repr(packed).endswith("engine='jax', chosen by 'auto')")
    np.testing.assert_array_equal(packed.logits(images), reference.logits(network, images))


def no_such_program(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "nocc")


def fails(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "false")


def makes_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("CC", "true")


def hangs(monkeypatch, tmp_path):
    (tmp_path / "slow").write_text("#!/bin/sh\nsleep 1000\n")
    (tmp_path / "slow").chmod(0o755)
    monkeypatch.setenv("CC", str(tmp_path / "slow"))
    monkeypatch.setattr(c_engine, "VERSION_SECONDS", 0.2)


def has_no_cache(monkeypatch, tmp_path):
    (tmp_path / "cache").write_text("a file")


def makes_what_cannot_be_loaded(monkeypatch, tmp_path):
    def refuse(_):
        raise OSError("failed to map segment")

    monkeypatch.setattr(c_engine.ctypes, "CDLL", refuse)
    monkeypatch.setattr(c_engine, "compiled", lambda *_: tmp_path / "library")


@pytest.mark.usefixtures("cache", "reference_for_jax", "compiler")
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (no_such_program, "CC=nocc: there is no such program"),
        (fails, "false .* failed"),
        (makes_nothing, "made nothing"),
        (hangs, "did not end within 0.2 seconds"),
        (has_no_cache, "cannot be made"),
        (makes_what_cannot_be_loaded, "failed to map segment"),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_where_the_compiler_does_not_work_auto_warns_once_and_takes_jax_but_c_is_refused(
    fault, reason, path, network, make_images, monkeypatch, tmp_path
):
    fault(monkeypatch, tmp_path)
    images = make_images(2, (8, 8, 3))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        packed = load_packed(path)
        for _ in range(3):
            np.testing.assert_array_equal(packed.logits(images), reference.logits(network, images))
    (warning,) = caught
    assert 'engine="auto" takes "jax" instead of "c": ' in str(warning.message)
    assert packed.engine == "jax" and "engine='jax'" in repr(packed)
    with pytest.raises(CompilerError, match=reason) as error:
        load_packed(path, engine="c").logits(images)
    assert str(error.value) in str(warning.message)


@pytest.mark.usefixtures("cache", "reference_for_jax", "compiler")
def test_many_images_go_to_an_accelerator_where_there_is_one(path, make_images, monkeypatch):
    packed, images = load_packed(path), make_images(256, (8, 8, 3))
    for accelerator, n, engine in ((False, 256, "c"), (True, 255, "c"), (True, 256, "jax"), (True, 1, "c")):
        monkeypatch.setattr(load, "_has_accelerator", lambda accelerator=accelerator: accelerator)
        packed.logits(images[:n])
        assert packed.engine == engine, (accelerator, n)


@pytest.mark.parametrize("engine", [load.AUTO, *ENGINES])
@pytest.mark.parametrize("made", [copy.copy, copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.usefixtures("cache", "reference_for_jax", "compiler")
def test_a_copy_computes_the_same_and_chooses_its_engine_anew(
    engine, made, path, make_images, monkeypatch, tmp_path
):
    images, packed = make_images(2, (8, 8, 3)), load_packed(path, engine)
    logits = packed.logits(images)
    copied = made(packed)
    np.testing.assert_array_equal(copied.logits(images), logits)
    assert repr(copied) == repr(packed)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert made(packed).engine == ("jax" if engine == load.AUTO else engine)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("images", [np.uint8(3), [[1]], np.zeros((300, 8, 9, 3), np.uint8)])
def test_what_is_no_images_is_refused_before_anything_is_compiled(path, images, cache):
    with pytest.raises(ValueError, match="images must be uint8"):
        load_packed(path).logits(images)
    assert not cache.exists()


# Formats.


@pytest.mark.parametrize("format", ENDINGS)
def test_a_packed_network_is_written_in_every_format(path, tmp_path, format):
    files = load_packed(path, engine="numpy").export(tmp_path / "out" / "model", format)
    assert files and all(file.stat().st_size > 0 and file.is_relative_to(tmp_path / "out") for file in files)
    if format == "packed":
        assert files[0].read_bytes() == path.read_bytes()


def test_unknown_formats_are_refused(path, tmp_path):
    with pytest.raises(ValueError, match="format must be one of packed, c, onnx, stablehlo, wasm, got 'elf'"):
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
    any_size = load_packed(tmp_path / "any", engine="numpy")
    with pytest.raises(ExportError, match="image_shape=.0, 8.: the network takes images of NonexNonex3"):
        any_size.export(tmp_path / "x", format, image_shape=(0, 8))
    assert any_size.export(tmp_path / "x", format, image_shape=(8, 8))


def test_what_is_neither_a_file_nor_in_the_zoo_is_refused_with_what_there_is(tmp_path):
    with pytest.raises(PackedError, match="nothing cannot be read: there is no such file, nor such a model"):
        load_packed(tmp_path / "nothing")
    with pytest.raises(PackedError, match="digits_resnet8_w1a2"):
        load_packed("nonsense")


@pytest.mark.parametrize("name", ["x" * 300, "file/below"])
def test_a_path_that_cannot_be_looked_at_is_refused_in_a_line(name, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(PackedError, match="cannot be read .(File name too long|Not a directory)"):
        find_packed(tmp_path / name)


def test_a_directory_does_not_hide_the_zoo(tmp_path, monkeypatch):
    name = next(iter(zoo()))
    (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_packed(name) == zoo()[name]


FORK = """
import os, numpy as np
from qresnet_jax import load_packed
network, images = load_packed("digits_resnet8_w1a2", engine="{engine}"), np.zeros((1, 8, 8, 1), np.uint8)
expected = network.logits(images)
if os.fork() == 0:
    try:
        print(np.array_equal(network.logits(images), expected), flush=True)
    except RuntimeError as error:
        print(error, flush=True)
    os._exit(0)
os.wait()
"""


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("numpy", "True"),
        ("c", "True"),
        ("jax", "was forked from one in which it has computed: start processes by"),
    ],
)
def test_a_forked_process_computes_the_same_or_says_why_it_cannot(engine, said, request):
    if engine == "c":
        request.getfixturevalue("compiler")
    command = [sys.executable, "-W", "ignore", "-c", FORK.format(engine=engine)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert said in done.stdout, done.stderr


def test_a_file_goes_before_the_zoo(path, tmp_path, monkeypatch):
    name = next(iter(zoo()))
    assert find_packed(name) == zoo()[name]
    (tmp_path / name).write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert find_packed(name).resolve() == tmp_path / name


def test_the_c_prefix_can_be_chosen(path, tmp_path):
    files = load_packed(path, engine="numpy").export(tmp_path, "c", c_prefix="net", c_profile="small")
    assert [file.name for file in files] == ["net.h", "net.c", "net.example.c"]
    assert "void net_logits(" in files[0].read_text() and "NET_BUFFER_BYTES" in files[0].read_text()


@pytest.mark.parametrize("format", ["packed", "c", "onnx", "stablehlo"])
def test_a_tilde_is_the_home_directory(path, home, format):
    (home / "net").write_bytes(path.read_bytes())
    files = load_packed("~/net", engine="numpy").export(
        "~/new/net", format, **({"c_profile": "small"} if format == "c" else {})
    )
    assert files and all(file.is_file() and home / "new" in file.parents for file in files)
    assert not list((home.parent / "here").iterdir())
