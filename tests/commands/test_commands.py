"""The table of modes: every entry is a function of `(config, workdir)`, and its examples are valid."""

import importlib
import inspect
import re

import pytest

from qresnet_jax.commands import COMMANDS
from qresnet_jax.config import default_config, flatten
from qresnet_jax.ship.load import zoo
from qresnet_jax.system.config_files import shipped_configs


@pytest.mark.parametrize("mode", COMMANDS)
def test_every_mode_has_a_function_of_config_and_workdir(mode):
    module, name = COMMANDS[mode].function.split(".")
    function = getattr(importlib.import_module(f"qresnet_jax.commands.{module}"), name)
    assert list(inspect.signature(function).parameters)[:2] == ["config", "workdir"]


@pytest.mark.parametrize(
    ("mode", "example"), [(mode, example) for mode, c in COMMANDS.items() for example in c.examples]
)
def test_the_examples_of_the_help_name_what_there_is(mode, example):
    flags = dict(flag.removeprefix("--").split("=") for flag in example.split())
    assert flags.pop("config") in shipped_configs()
    assert flags.pop("mode", "train") == mode
    flags.pop("workdir", None)
    assert {re.sub("^config.", "", name) for name in flags} <= set(flatten(default_config()))
    assert flags.get("config.packed", "digits_resnet8_w1a2") in zoo()
