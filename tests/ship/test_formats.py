"""The name of an export fits its format, and nothing is in its way."""

import pytest

from qresnet_jax.commands.export import export_packed, export_run
from qresnet_jax.config import default_config
from qresnet_jax.errors import UserError
from qresnet_jax.ship.formats import DIRECTORIES, ENDINGS, check_path
from qresnet_jax.ship.load import load_packed

OWN = {
    "packed": [".safetensors", ".SafeTensors"],
    "onnx": [".onnx", ".ONNX"],
    "qonnx": [".onnx", ".qonnx.onnx", ".qonnx"],
    "stablehlo": [".stablehlo"],
    "c": [],
    "wasm": [],
}
ENDS = [".safetensors", ".onnx", ".qonnx.onnx", ".qonnx", ".stablehlo", ".c", ".h", ".wasm"]
OTHERS = [(format, end) for format in OWN for end in [*ENDS, ".ONNX", ".C"] if end.lower() not in OWN[format]]


@pytest.mark.parametrize("format", OWN)
def test_a_name_of_its_own_format_or_of_none_is_taken(tmp_path, format):
    for ending in ("", ".bin", "_c", ".v1", ".onnx.tmp", *OWN[format]):
        check_path(tmp_path / f"net{ending}", format)


@pytest.mark.parametrize(("format", "ending"), OTHERS)
def test_a_name_of_another_format_is_refused_in_a_line_with_a_way_out(tmp_path, format, ending):
    with pytest.raises(UserError) as caught:
        check_path(tmp_path / f"net{ending}", format)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/net{ending} ends in {ending.lower()}, ") and "\n" not in message
    assert ("give the path of a directory" if format in DIRECTORIES else "let the name end in ") in message


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "file").touch()
    for format in OWN:
        if format in DIRECTORIES:
            check_path(tmp_path, format)
            with pytest.raises(UserError, match=f"file is a file, but the format {format} is a directory"):
                check_path(tmp_path / "file", format)
        else:
            check_path(tmp_path / "file", format)
            with pytest.raises(UserError, match=f"is a directory, but the format {format} is a file"):
                check_path(tmp_path, format)


@pytest.mark.parametrize("format", ENDINGS)
def test_the_command_and_python_refuse_alike_and_before_they_read_anything(tmp_path, format):
    wrong = tmp_path / ("x.onnx" if format != "onnx" else "x.safetensors")
    config = default_config()
    config.export.format, config.export.path = format, str(wrong)
    messages = []
    for call in (
        lambda: export_run(config, tmp_path / "no run"),
        lambda: export_packed(config, tmp_path),
        lambda: load_packed("digits_resnet8_w1a2", engine="numpy").export(wrong, format),
    ):
        with pytest.raises(UserError) as caught:
            call()
        messages.append(str(caught.value))
    assert len(set(messages)) == 1 and f"{wrong} ends in {wrong.suffix}" in messages[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["packed", "onnx", "wasm"])
@pytest.mark.parametrize(
    ("name", "value"), [("c_profile", "small"), ("c_prefix", "net"), ("c_layout", "header")]
)
def test_a_wish_for_c_is_refused_where_it_would_be_ignored(format, name, value, tmp_path):
    message = f"{name}='{value}' is for format c only, but the format is {format}: leave {name} at"
    with pytest.raises(UserError, match=message):
        load_packed("digits_resnet8_w1a2", engine="numpy").export(tmp_path / "x", format, **{name: value})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", ENDINGS)
def test_a_path_below_a_file_names_the_file(tmp_path, format):
    (tmp_path / "file").touch()
    network = load_packed("digits_resnet8_w1a2", engine="numpy")
    for below in ("x", "y/x"):
        with pytest.raises(UserError) as caught:
            network.export(tmp_path / "file" / below, format)
        assert str(caught.value) == (
            f"{tmp_path}/file/{below} cannot be written ({tmp_path}/file is a file, not a directory): choose another place"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
