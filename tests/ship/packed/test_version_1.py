"""Version 1: files that its program wrote, and the logits that its reference engine gave. They are read for ever."""

import json
import pathlib

import numpy as np
import pytest

from qresnet_jax.ship import reference
from qresnet_jax.ship.packed.arrays import TENSOR_DTYPES
from qresnet_jax.ship.packed.file import read_packed, save_packed
from tests.ship.packed.files import parts, sign

VERSION_1 = pathlib.Path(__file__).parent / "version_1"


@pytest.mark.parametrize("name", ["digits_resnet8_w1a2", "fashion_mnist_resnet20_w1a2", "every_field"])
def test_files_of_version_1_give_the_logits_that_they_gave(name):
    path = VERSION_1 / f"{name}.safetensors"
    assert parts(path)[0]["version"] == "1"
    images, logits = (np.load(VERSION_1 / f"{name}.{what}.npy") for what in ("images", "logits"))
    assert len(np.unique(logits, axis=0)) == len(images) == 6
    np.testing.assert_array_equal(reference.logits(read_packed(path), images), logits)


def test_a_file_of_version_1_has_all_that_version_1_had():
    metadata, tensors = parts(VERSION_1 / "every_field.safetensors")
    entries = json.loads(metadata["network"])["nodes"]
    assert set(tensors) == set(TENSOR_DTYPES) - {"stem_weights_narrow"}
    assert {entry["op"] for entry in entries} == {
        *(
            "stem",
            "binary_conv",
            "thresholds",
            "requantize",
            "add",
            "relu",
            "max_pool",
            "mean_pool",
            "classifier",
        )
    }
    fields = {field for entry in entries for field in entry}
    assert fields == {"op", "name", "inputs", "shape", "stride", "levels", "wide", "channels"}


def test_what_version_1_reads_is_written_as_version_2_without_any_of_its_fields(tmp_path):
    """The whole difference between the files of a ResNet."""
    for path in VERSION_1.glob("*_w1a2.safetensors"):
        save_packed(read_packed(path), tmp_path / path.name)
        (old, old_tensors), (new, new_tensors) = parts(path), parts(tmp_path / path.name)
        assert new == sign({**old, "version": "2"}, old_tensors)
        assert {name: x.tobytes() for name, x in new_tensors.items()} == {
            name: x.tobytes() for name, x in old_tensors.items()
        }
