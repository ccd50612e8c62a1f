"""The table of modes: every entry is a function of `(config, workdir)`, and its examples are valid."""

import importlib
import inspect
import re
import shlex

import pytest

from qresnet_jax.commands import COMMANDS
from qresnet_jax.commands.sweep.plan import plan
from qresnet_jax.config import default_config, flatten
from qresnet_jax.ship.load import zoo
from qresnet_jax.system.config_files import shipped_configs


@pytest.mark.parametrize("mode", COMMANDS)
def test_every_mode_has_a_function_of_config_and_workdir(mode):
    module, _, name = COMMANDS[mode].function.rpartition(".")
    function = getattr(importlib.import_module(f"qresnet_jax.commands.{module}"), name)
    assert list(inspect.signature(function).parameters)[:2] == ["config", "workdir"]


def plan_of(words):
    """The members of a sweep."""
    given = {
        name: [w.partition("=")[2] for w in words if w.startswith(f"--{name}=")] for name in ("seeds", "grid")
    }
    return plan(default_config(), given["seeds"][0], given["grid"])


@pytest.mark.parametrize(
    ("mode", "example"), [(mode, example) for mode, c in COMMANDS.items() for example in c.examples]
)
def test_the_examples_of_the_help_name_what_there_is(mode, example):
    words = shlex.split(example.replace("--grid ", "--grid="))
    named = words.pop(0) if not words[0].startswith("--") else "train"
    assert mode != "sweep" or plan_of(words)
    flags = dict(flag.removeprefix("--").split("=", 1) for flag in words)
    assert flags.pop("config") in shipped_configs()
    assert flags.pop("mode", named) == mode
    for name in ("workdir", "seeds", "grid"):
        flags.pop(name, None)
    assert {re.sub("^config.", "", name) for name in flags} <= set(flatten(default_config()))
    assert flags.get("config.packed", "digits_resnet8_w1a2") in zoo()
