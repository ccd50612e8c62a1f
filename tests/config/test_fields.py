"""The fields have defaults that are valid and those of the functions; config files, JSON and names lead back to them."""

import inspect
import json
import pathlib
import runpy

import pytest
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.config import default_config, flatten, from_json, validate
from tests.config.config_cases import changed

REPO = pathlib.Path(__file__).parents[2]
CONFIG_FILES = sorted((REPO / "configs").glob("*.py"))


def test_there_are_config_files():
    assert CONFIG_FILES


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: p.stem)
def test_every_config_file_is_valid_and_says_its_command(path):
    module = runpy.run_path(str(path))
    validate(module["get_config"]())
    assert f"qresnet --config={path.stem}\n" in module["__doc__"]


def test_a_config_file_that_is_none_is_refused_with_a_way_out(run_main, tmp_path):
    (tmp_path / "other.py").write_text("x = 1\n")
    for given, reason in (
        ("digit", "there is no config file digit"),
        ("configs", "there is no config file configs"),
        (f"{tmp_path}/other.py", f"{tmp_path}/other.py is no config, as it has no function get_config"),
    ):
        result = run_main(f"--config={given}")
        assert result.returncode == 2
        assert result.stderr.startswith(f"error: {reason}: give ")
        assert result.stderr.endswith("as in --config=digits\n") and result.stderr.count("\n") == 1


def test_the_default_config_is_valid():
    validate(default_config())


def test_defaults_of_functions_are_those_of_the_config():
    """The same number stands in a signature, as the layers and the optimizer can be used without a config."""
    from qresnet_jax import nn
    from qresnet_jax.nn.convolutions import WEIGHT_BITS
    from qresnet_jax.nn.variables import BinaryKernel
    from qresnet_jax.quantize import fixed_point, hysteresis, weights

    def default(function, argument):
        return inspect.signature(function).parameters[argument].default

    fields = flatten(default_config())
    for argument in ("threshold", "relative"):
        loop = default(hysteresis.hysteresis_binarize, argument)
        assert loop == fields[f"optim.hysteresis.{argument}"] and type(loop) in (float, bool)
    assert default(nn.Sigmoid.__init__, "temperature") == fields["optim.temperature.start"]
    assert default(nn.BinaryConv.__init__, "scale") == fields["model.weight_scale"]
    assert default(BinaryKernel.__init__, "weight_scale") == fields["model.weight_scale"]
    assert default(weights.binarize, "scale") == fields["model.weight_scale"]
    assert fields["model.stem_weight_bits"] == WEIGHT_BITS
    assert fields["model.stream_fraction_bits"] == fixed_point.FRACTION_BITS


@pytest.mark.parametrize("start", configs.WITHOUT_EFFECT)
def test_fields_of_the_call_are_fields(start):
    names = [name for name in flatten(default_config()) if name.startswith(start)]
    assert names == [start] or (names and start.endswith("."))


def test_flatten_gives_dotted_names():
    tree = {"a": 1, "b": {"c": {"d": (2,)}}}
    assert flatten(tree) == flatten(ConfigDict(tree)) == {"a": 1, "b.c.d": (2,)}


def test_a_config_comes_back_from_json_without_the_fields_that_are_gone_and_newer_ones_have_their_defaults():
    config = changed(**{"model.act_bits": (4, 4, 4), "model.stream_fraction_bits": 5, "seed": 7})
    saved = json.loads(json.dumps(config.to_dict()))
    assert flatten(from_json(saved)) == flatten(config)
    del saved["bench"], saved["packed"]
    saved |= {"gone": 1, "all": {"gone": 2}}
    saved["model"]["gone"] = [3]
    assert flatten(from_json(saved)) == flatten(config)
