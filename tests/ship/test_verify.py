"""What an export wrote is run, and refused if it computes something else."""

import dataclasses
import pathlib
import shutil
import sys

import numpy as np
import pytest

from qresnet_jax.errors import ExportError
from qresnet_jax.ship import reference, verify
from qresnet_jax.ship.formats import write_network
from qresnet_jax.ship.jax.stablehlo import simulation, write_stablehlo
from qresnet_jax.ship.onnx.qonnx import write_qonnx

FORMATS = ("packed", "onnx", "stablehlo", "c", "wasm")
NAME = "basic pact"


@pytest.fixture
def images(make_images):
    return make_images(20, (8, 8, 3))  # a batch and a part of one


def write(network, tmp_path, format, **options):
    return write_network(network, tmp_path / "net", format, **options)


def checked(files, format, images, expected):
    return verify.check(files, format, images, expected, name="net", kind="images")


def needs(format, request):
    if format == "c":
        request.getfixturevalue("compiler")
    if format == "wasm":
        request.getfixturevalue("wasm_tools")
        if shutil.which("node") is None:
            pytest.skip("Node.js is not installed")


@pytest.mark.parametrize("format", FORMATS)
def test_intact_files_pass(format, network, images, tmp_path, request):
    needs(format, request)
    expected = reference.logits(network, images)
    found = checked(write(network, tmp_path, format), format, images, expected)
    assert found == "checked: net gives the same logits on 20 images"


@pytest.mark.parametrize("format", FORMATS)
def test_one_integer_that_differs_is_enough(format, network, images, tmp_path, request):
    needs(format, request)
    expected = reference.logits(network, images)
    expected[-1, -1] += 1
    with pytest.raises(
        ExportError, match="net gives other logits .* on 20 images, so it is not kept. .*format"
    ):
        checked(write(network, tmp_path, format), format, images, expected)


@pytest.mark.parametrize("format", FORMATS)
def test_files_that_do_not_run_are_refused(format, network, images, tmp_path, request):
    needs(format, request)
    files = write(network, tmp_path, format)
    damaged = next(file for file in files if file.name in ("net", "model.c", "model.wasm"))
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ExportError, match="net does not run .*so it is not kept"):
        checked(files, format, images, reference.logits(network, images))


def test_c_files_may_have_any_profile_prefix_and_names(network, images, tmp_path, compiler):
    network = dataclasses.replace(network, class_names=("a b", "1 2", "c\n3", "é", ""))
    files = write(network, tmp_path, "c", c_profile="small", c_prefix="digits")
    found = checked(files, "c", images, reference.logits(network, images))
    assert found.startswith("checked: ")


@pytest.mark.parametrize("hangs", ["at once", "when it compiles"])
def test_a_compiler_that_hangs_is_left_and_named(hangs, network, images, tmp_path, monkeypatch):
    script = tmp_path / "slowcc"
    script.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && exit 0\nsleep 100\n'
        if hangs != "at once"
        else "#!/bin/sh\nsleep 100\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("CC", str(script))
    monkeypatch.setattr(verify, "VERSION_SECONDS", 0.2 if hangs == "at once" else 20)
    monkeypatch.setattr(verify, "PROGRAM_SECONDS", 0.2)
    found = checked(write(network, tmp_path, "c"), "c", images, reference.logits(network, images))
    assert found.startswith(f"not checked: {script} ") and "did not end within 0.2 seconds (set CC" in found


def test_an_exported_program_that_hangs_is_refused(network, images, tmp_path, monkeypatch, compiler):
    files = write(network, tmp_path, "c")
    example = next(file for file in files if file.name == "example.c")
    example.write_text("int main(void) { for (volatile int i = 0;; i = 1) {} }")
    usual = verify.run_program
    monkeypatch.setattr(
        verify,
        "run_program",
        lambda command, seconds, given: usual(command, 1 if given else seconds, given=given),
    )
    with pytest.raises(ExportError, match="example did not end within 1 seconds"):
        checked(files, "c", images, reference.logits(network, images))


@pytest.mark.parametrize(
    ("format", "package"), [("onnx", "onnxruntime"), ("qonnx", "qonnx.core.modelwrapper")]
)
def test_without_the_package_the_line_says_what_to_install(format, package, images, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    name = package.split(".")[0]
    found = checked([pathlib.Path("never read")], format, images, np.zeros((20, 5), np.int32))
    assert found == f"not checked: {name} is not installed (pip install {name})"


def test_without_a_compiler_the_line_says_so(images, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    found = checked([pathlib.Path("never read")], "c", images, np.zeros((20, 5), np.int32))
    assert found == "not checked: there is no C compiler (install gcc, or set CC)"


def test_without_node_the_line_says_so(images, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    found = checked([pathlib.Path("never read")], "wasm", images, np.zeros((20, 5), np.int32))
    assert found == "not checked: Node.js is not installed (apt install nodejs)"


def test_where_programs_may_not_run_the_line_says_so(network, images, tmp_path, monkeypatch):
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor last; do :; done\ntouch "$last"\n')  # makes a file that is no program
    compiler.chmod(0o755)
    monkeypatch.setenv("CC", str(compiler))
    found = checked(write(network, tmp_path, "c"), "c", images, np.zeros((20, 5), np.int32))
    assert found.startswith("not checked: programs may not run in ") and "set TMPDIR" in found


# Formats whose logits are floats.


@pytest.fixture
def write_floats(trained_named, tmp_path):
    """`write_floats(format)`: the files."""
    model, network = trained_named(NAME)

    def write_floats(format):
        path = tmp_path / "net"
        if format == "stablehlo":
            write_stablehlo(simulation(model, network.mean), path, network.image_shape)
        else:
            write_qonnx(model, path, image_shape=network.image_shape[:2], mean=network.mean)
        return [path]

    return write_floats


@pytest.mark.parametrize(("format", "count"), [("stablehlo", 20), ("qonnx", 16)])
def test_floats_need_the_same_classes(format, count, write_floats, trained_named, images):
    _, network = trained_named(NAME)
    files, expected = write_floats(format), reference.logits(network, images) * network.logit_scale
    found = checked(files, format, images, expected)
    assert found == f"checked: net gives the same classes on {count} images"
    moved = expected.copy()
    moved[0] = np.roll(moved[0], 1)  # one image may stand at an edge
    assert checked(files, format, images, 0.99 * expected + 0.01 * moved).startswith("checked")
    for other in (
        np.roll(expected, 1, axis=1),
        expected * 1.1,
    ):  # other classes; the same ones with other logits
        with pytest.raises(ExportError, match=f"net gives other logits .* on {count} images"):
            checked(files, format, images, other)
