"""A network in WebAssembly gives the integers of the reference, with vectors and without, under Node.js."""

import dataclasses
import gzip
import json

import numpy as np
import pytest

from qresnet_jax.errors import ExportError, UserError
from qresnet_jax.ship import reference, verify
from qresnet_jax.ship.formats import write_network
from qresnet_jax.ship.load import load_packed, zoo
from qresnet_jax.ship.packed.file import read_packed
from qresnet_jax.ship.wasm import sections
from qresnet_jax.ship.wasm.writer import wasm_bytes, write_wasm
from tests.ship.random_networks import random_network


def check(network, directory, images):
    """The runner runs both builds, and refuses what differs between them."""
    found = verify.RUNNERS["wasm"](write_wasm(network, directory), images, network.classes)
    np.testing.assert_array_equal(found, reference.logits(network, images))


def random_check(seed, tmp_path, make_images):
    network, (height, width) = random_network(seed, ordinary=seed % 4 == 0)
    network = dataclasses.replace(network, height=height, width=width)
    check(network, tmp_path, make_images(3, (height, width, network.channels)))


@pytest.mark.parametrize("seed", [3, 11])
def test_random_networks_are_exact(seed, tmp_path, make_images, node):
    random_check(seed, tmp_path, make_images)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 5, *range(12, 60)])
def test_many_random_networks_are_exact(seed, tmp_path, make_images, node):
    random_check(seed, tmp_path, make_images)


def test_the_digits_are_exact(exported, digits, make_images, node):
    images = make_images(50, (8, 8, 1))
    found = verify.RUNNERS["wasm"](sorted(exported.glob("model.[wj]*")), images, 10)
    np.testing.assert_array_equal(found, reference.logits(digits, images))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in zoo() if name != "digits_resnet8_w1a2"])
def test_the_zoo_is_exact(name, tmp_path, make_images, node):
    network = read_packed(zoo()[name])
    check(network, tmp_path, make_images(9, network.image_shape))


@pytest.mark.slow
def test_trained_networks_are_exact(trained, tmp_path, make_images, node):
    _, network = trained
    check(network, tmp_path, make_images(5, network.image_shape))


def test_the_same_network_gives_the_same_files_which_name_no_place(exported, digits, tmp_path):
    files = write_wasm(digits, tmp_path)
    assert [file.name for file in files] == ["model.wasm", "model.js", "index.html"]
    for file in files:
        assert file.read_bytes() == (exported / file.name).read_bytes()
    assert str(tmp_path).encode() not in files[0].read_bytes()


def test_the_constants_are_in_the_file_once(exported):
    content = (exported / "model.wasm").read_bytes()
    shared = json.loads(sections.custom_content(content, "qresnet_jax"))["shared"]
    (data,) = (x for kind, x in sections.split(content) if kind == sections.DATA)
    address, constants = sections.segments(data)[0]
    assert shared["to"] == address and shared["length"] > 0.9 * len(constants)
    assert content[shared["from"] :][: shared["length"]] == constants[: shared["length"]]
    second = sections.custom_content(content, "qresnet_jax_simd128")
    kinds = dict(sections.split(sections.join([])[:8] + second))
    assert len(kinds.get(sections.DATA, b"")) < 100


def test_neither_build_imports_anything(exported):
    content = (exported / "model.wasm").read_bytes()
    second = sections.join([]) + sections.custom_content(content, "qresnet_jax_simd128")
    for module in (content, second):
        assert 2 not in dict(sections.split(module))


@pytest.mark.slow
def test_a_resnet20_is_small(trained_named, tools):
    """The network of CIFAR; the target is 130 kB with both builds."""
    assert len(gzip.compress(wasm_bytes(trained_named("resnet20")[1]))) < 130_000


def test_a_network_for_images_of_any_size_is_refused(digits, tmp_path, tools):
    network = dataclasses.replace(digits, height=None, width=None)
    with pytest.raises(ExportError, match="format wasm needs one size: fold it with an image_shape"):
        write_network(network, tmp_path / "net", "wasm")
    with pytest.raises(ValueError, match="fold it with an image_shape"):
        wasm_bytes(network)


@pytest.mark.parametrize("name", ["net.wasm", "net.WASM"])
def test_the_path_is_that_of_a_directory(name, tmp_path):
    network = load_packed("digits_resnet8_w1a2", engine="numpy")
    with pytest.raises(UserError, match="ends in .wasm, but the format wasm is a directory of files"):
        network.export(tmp_path / name, format="wasm")


def test_builds_that_differ_are_refused(exported, digits, make_images, node, tmp_path):
    """The build with vectors gets its constants from a byte further on."""
    content = (exported / "model.wasm").read_bytes()
    first = json.loads(sections.custom_content(content, "qresnet_jax"))["shared"]["from"]
    wrong = content.replace(f'"from": {first}'.encode(), f'"from": {first + 1}'.encode())
    assert wrong != content and len(wrong) == len(content)
    files = [tmp_path / "model.wasm", tmp_path / "model.js"]
    files[0].write_bytes(wrong)
    files[1].write_bytes((exported / "model.js").read_bytes())
    images = make_images(3, (8, 8, 1))
    with pytest.raises(ExportError, match="net does not run"):
        verify.check(files, "wasm", images, reference.logits(digits, images), name="net", kind="images")
