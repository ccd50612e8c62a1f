"""Configs with changed fields, and how they are refused."""

import pytest
from ml_collections import ConfigDict

from qresnet_jax.config import default_config, validate
from qresnet_jax.errors import ConfigError


def changed(**fields):
    """The default config with fields set by dotted name, as they are: a `ConfigDict` makes floats of True and 1."""
    nested = default_config().to_dict()
    for name, value in fields.items():
        part = nested
        *parents, last = name.split(".")
        for parent in parents:
            part = part[parent]
        part[last] = value
    return ConfigDict(nested)


def refusal(config):
    with pytest.raises(ConfigError) as caught:
        validate(config)
    return str(caught.value)
