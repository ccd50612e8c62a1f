"""From a trained run to a file, and from the file to the same classes."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from PIL import Image

import qresnet_jax
from qresnet_jax.commands import export
from qresnet_jax.commands.export import export_packed, export_run
from qresnet_jax.commands.predict import predict_files
from qresnet_jax.data import load_dataset
from qresnet_jax.errors import UserError
from qresnet_jax.report.runs import read_run
from qresnet_jax.ship import verify
from qresnet_jax.ship.formats import write_network
from qresnet_jax.ship.load import find_packed, load_packed
from qresnet_jax.ship.packed.file import read_packed, save_packed
from qresnet_jax.train.checkpoints.resume import warm_start
from qresnet_jax.train.evaluator import evaluate_checkpoint, evaluate_packed, restore_run


def small(**model):
    config = qresnet_jax.default_config()
    config.data.name, config.data.crop_padding, config.data.flip = "digits", 0, False
    config.model.depth, config.model.in_channels = 8, 1
    config.model.update(model)
    config.batch_size, config.num_epochs, config.log_every_steps = 256, 1, 6
    return config


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config, workdir = small(), tmp_path_factory.mktemp("run")
    return config, workdir, qresnet_jax.train_and_evaluate(config, workdir, devices=jax.devices()[:1])


@pytest.fixture(scope="module")
def as_trained(run):
    """The bytes of the run's packed file."""
    (path,) = export_run(*run[:2])
    return path.read_bytes()


def test_a_run_is_exported_and_classifies_alike(run, caplog):
    config, workdir, trained = run
    (path,) = export_run(config, workdir)
    network = qresnet_jax.load_packed(path, engine="numpy")
    images, labels = load_dataset(config.data).test
    assert path == workdir / "model.safetensors" and network.nbytes == path.stat().st_size
    assert network.class_names == tuple("0123456789")
    logits = network.logits(images)
    assert logits.dtype == np.int32 and logits.shape == (360, 10)
    np.testing.assert_array_equal(network.predict(images), logits.argmax(-1))
    assert np.mean(network.predict(images) == labels) == trained["test_accuracy"]


def test_evaluation_measures_what_ships(run):
    config, workdir, trained = run
    values = evaluate_checkpoint(config, workdir)
    for name in ("test_accuracy", "test_of_step"):
        assert values[name] == trained[name]
    assert values["shipped_accuracy"] == values["test_accuracy"]


def test_a_run_predicts_what_its_file_predicts(run, as_trained, tmp_path):
    config, workdir, _ = run
    (tmp_path / "x").write_bytes(as_trained)
    for i, image in enumerate(load_dataset(config.data).test.images[:20]):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{i}.png")
    config = config.copy_and_resolve_references()
    config.predict.images = str(tmp_path / "*.png")
    of_the_run = predict_files(config, workdir)
    config.packed = str(tmp_path / "x")
    assert predict_files(config, workdir) == of_the_run and len(of_the_run) == 20


def changed(config, **export):
    """The config with other fields of `export`."""
    config = config.copy_and_resolve_references()
    config.export.update(export)
    return config


def test_the_path_can_be_chosen(run, tmp_path):
    config = changed(run[0], path=str(tmp_path / "x.safetensors"))
    assert export_run(config, run[1]) == [tmp_path / "x.safetensors"]


def test_a_tilde_is_the_home_directory(run, as_trained, home):
    (home / "run").symlink_to(run[1])
    assert restore_run(run[0], "~/run").step == restore_run(*run[:2]).step
    assert export_run(changed(run[0], path="~/new/x"), "~/run") == [home / "new" / "x"]
    assert (home / "new" / "x").read_bytes() == as_trained
    assert read_run("~/run").test == run[2]["test_accuracy"]
    params, model_state = restore_run(run[0], "~/run").state[1:3]
    assert f"warm start from {home / 'run'} at step" in warm_start("~/run", params, model_state)[2]
    config = changed(run[0], path="~/converted/x.onnx", format="onnx")
    config.packed = "~/new/x"
    assert export_packed(config, "~/run") == [home / "converted" / "x.onnx"]
    assert not list((home.parent / "here").iterdir())


@pytest.mark.parametrize(
    ("format", "names", "checked"),
    [
        ("packed", ["model.safetensors"], ["model.safetensors gives the same logits on 256 test images"]),
        ("c", ["model.h", "model.c", "example.c"], ["model_c gives the same logits on 256 test images"]),
        (
            "wasm",
            ["model.wasm", "model.js", "index.html"],
            ["model_wasm gives the same logits on 256 test images"],
        ),
        ("onnx", ["model.onnx"], ["model.onnx gives the same logits on 256 test images"]),
        ("qonnx", ["model.qonnx.onnx"], ["model.qonnx.onnx gives the same classes on 16 test images"]),
        pytest.param(
            "stablehlo",
            ["model.stablehlo", "model.simulation.stablehlo"],
            [
                "model.stablehlo gives the same logits on 256 test images",
                "model.simulation.stablehlo gives the same classes on 256 test images",
            ],
            marks=pytest.mark.slow,  # docs/onnx.md exports the same
        ),
    ],
)
def test_what_is_written_is_run_in_every_format(run, format, names, checked, caplog, request):
    if format == "c":
        request.getfixturevalue("compiler")
    if format == "wasm":
        request.getfixturevalue("wasm_tools")
        if shutil.which("node") is None:
            pytest.skip("Node.js is not installed")
    with caplog.at_level("INFO", "qresnet_jax"):
        files = export_run(changed(run[0], format=format, c_profile="small"), run[1])
    assert [file.name for file in files] == names and all(file.stat().st_size > 0 for file in files)
    assert [line for line in caplog.messages if "checked" in line] == [f"checked: {line}" for line in checked]


@pytest.fixture
def spoiled(monkeypatch):
    """Makes the writer of integer networks write another one."""

    def write_another(network, path, format, **options):
        last = network.nodes[-1]
        last = dataclasses.replace(last, bias=last.bias + np.int32(1))
        return write_network(
            dataclasses.replace(network, nodes=(*network.nodes[:-1], last)), path, format, **options
        )

    monkeypatch.setattr(export, "write_network", write_another)


@pytest.mark.parametrize("format", ["packed", "onnx"])
def test_what_a_spoiled_writer_wrote_is_not_kept(run, spoiled, format, tmp_path):
    config = changed(run[0], format=format, path=str(tmp_path / "x"))
    with pytest.raises(UserError, match="x gives other logits than the network on 256 test images"):
        export_run(config, run[1])
    assert not list(tmp_path.iterdir())
    config.packed = "digits_resnet8_w1a2"
    (tmp_path / "x").write_text("old")
    with pytest.raises(UserError, match="x gives other logits than the network on 256 random images"):
        export_packed(config, tmp_path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["old"]


def test_of_two_files_none_is_kept_if_the_second_is_wrong(run, tmp_path, monkeypatch):
    def run_first(files, images, classes):
        calls.append(files)
        return verify.RUNNERS["packed"](files, images, classes) if len(calls) == 1 else 1 / 0

    def write_packed(network, path, format, **options):
        return write_network(network, path, "packed")  # StableHLO would take longer

    calls = []
    monkeypatch.setitem(verify.RUNNERS, "stablehlo", run_first)
    monkeypatch.setattr(export, "write_network", write_packed)
    monkeypatch.setattr(export, "_write_simulation", lambda model, network, path: [path])
    config = changed(run[0], format="stablehlo", path=str(tmp_path / "new" / "x.stablehlo"))
    with pytest.raises(
        UserError, match="x.simulation.stablehlo does not run .division by zero.*, so it is not kept"
    ):
        export_run(config, run[1])
    assert len(calls) == 2 and not list(tmp_path.iterdir())


def test_a_packed_file_for_images_of_any_size_is_tried_on_images_of_one(tmp_path, caplog):
    network = read_packed(find_packed("digits_resnet8_w1a2"))
    save_packed(dataclasses.replace(network, height=None, width=None), tmp_path / "any")
    config = changed(small(), format="onnx", path=str(tmp_path / "any.onnx"))
    config.packed = str(tmp_path / "any")
    with caplog.at_level("INFO", "qresnet_jax"):
        assert export_packed(config, tmp_path) == [tmp_path / "any.onnx"]
    assert "checked: any.onnx gives the same logits on 256 random images" in caplog.text


@pytest.mark.slow
def test_a_float_network_has_no_integer_form(tmp_path):
    config = small(weight_bits=32, activation="none")
    trained = qresnet_jax.train_and_evaluate(config, tmp_path, devices=jax.devices()[:1])
    assert "shipped_accuracy" not in evaluate_checkpoint(config, tmp_path)
    with pytest.raises(UserError, match="float"):
        export_run(config, tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["test_accuracy"] == trained["test_accuracy"]


@pytest.mark.parametrize(
    "field, value",
    [("model.act_bits", (4, 4, 4)), ("model.stream_fraction_bits", 3), ("model.depth", 14), ("seed", 9)],
)
def test_a_run_is_exported_as_it_was_trained_whatever_the_config_says(
    run, as_trained, tmp_path, caplog, field, value
):
    config, workdir, _ = run
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({field: value, "export.path": str(tmp_path / "x")})
    with caplog.at_level("INFO", "qresnet_jax"):
        (path,) = export_run(other, workdir)
    assert path == tmp_path / "x" and path.read_bytes() == as_trained
    assert f"using the run's own values, not those of the config: {field}=" in caplog.text


def test_a_packed_file_of_other_images_is_refused(run):
    config = run[0].copy_and_resolve_references()
    config.packed = "fashion_mnist_resnet20_w1a2"
    with pytest.raises(UserError, match="takes images of 28x28x1, but those of digits are 8x8x1"):
        evaluate_packed(config)


def test_a_packed_file_with_another_number_of_classes_is_refused(run, tmp_path):
    config = run[0].copy_and_resolve_references()
    network = load_packed("digits_resnet8_w1a2", engine="numpy").network
    last = network.classifier
    three = dataclasses.replace(last, weights=last.weights[:, :3], bias=last.bias[:3])
    save_packed(
        dataclasses.replace(network, nodes=(*network.nodes[:-1], three), class_names=None), tmp_path / "three"
    )
    config.packed = str(tmp_path / "three")
    with pytest.raises(
        UserError, match="three has 3 classes, but digits has 10: give the config of the data"
    ):
        evaluate_packed(config)
