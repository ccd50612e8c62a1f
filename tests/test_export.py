"""From a trained run to a file, and from the file to the same classes."""

import json

import numpy as np
import pytest

import qresnet_jax
from qresnet_jax.data import load_dataset
from qresnet_jax.errors import UserError
from qresnet_jax.export import export_run
from qresnet_jax.train.evaluate import evaluate_checkpoint, evaluate_packed


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
    return config, workdir, qresnet_jax.train_and_evaluate(config, workdir)


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
    # 1 of 360 images may differ: evaluation in float32 meets the formula's ties with its own rounding.
    assert abs(np.mean(network.predict(images) == labels) - trained["test_accuracy"]) <= 1 / 360


def test_evaluation_reports_the_simulation_and_what_ships(run):
    config, workdir, trained = run
    values = evaluate_checkpoint(config, workdir)
    for name in ("test_accuracy", "test_of_step"):
        assert values[name] == trained[name]
    assert abs(values["shipped_accuracy"] - values["test_accuracy"]) <= 1 / 360


def test_the_path_can_be_chosen(run, tmp_path):
    config, workdir, _ = run
    config = config.copy_and_resolve_references()
    config.export.path = str(tmp_path / "x.safetensors")
    assert export_run(config, workdir) == [tmp_path / "x.safetensors"]


def test_a_float_network_has_no_integer_form(tmp_path):
    config = small(weight_bits=32, activation="none")
    trained = qresnet_jax.train_and_evaluate(config, tmp_path)
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
def test_a_run_is_exported_as_it_was_trained_whatever_the_config_says(run, tmp_path, caplog, field, value):
    config, workdir, _ = run
    (as_trained,) = export_run(config, workdir)
    other = config.copy_and_resolve_references()
    other.update_from_flattened_dict({field: value, "export.path": str(tmp_path / "x")})
    with caplog.at_level("INFO", "qresnet_jax"):
        (path,) = export_run(other, workdir)
    assert path == tmp_path / "x" and path.read_bytes() == as_trained.read_bytes()
    assert f"as the run was trained, not as the config says: {field}=" in caplog.text


def test_a_packed_file_of_other_images_is_refused(run):
    config = run[0].copy_and_resolve_references()
    config.packed = "fashion_mnist_resnet20_w1a2"
    with pytest.raises(UserError, match="takes images of 28x28x1, digits has 8x8x1"):
        evaluate_packed(config)
