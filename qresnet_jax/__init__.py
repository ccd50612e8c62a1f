"""Trains networks with 1-bit weights and low-bit activations in JAX, and ships them as integer networks."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; at run time `__getattr__` imports a name when it is used
    from qresnet_jax import nn as nn
    from qresnet_jax.config import default_config as default_config
    from qresnet_jax.data import ImageDataset as ImageDataset
    from qresnet_jax.models.networks import create_model as create_model
    from qresnet_jax.nn import PACT as PACT
    from qresnet_jax.nn import BinaryConv as BinaryConv
    from qresnet_jax.nn import BinaryKernel as BinaryKernel
    from qresnet_jax.nn import ClippingLevel as ClippingLevel
    from qresnet_jax.quantize.activations import pact as pact
    from qresnet_jax.quantize.hysteresis import hysteresis_binarize as hysteresis_binarize
    from qresnet_jax.quantize.weights import binarize as binarize
    from qresnet_jax.ship.fold import fold as fold
    from qresnet_jax.ship.load import load_packed as load_packed
    from qresnet_jax.system.config_files import load_config as load_config
    from qresnet_jax.train.loop import train_and_evaluate as train_and_evaluate

_HOME = {
    "BinaryConv": "nn",
    "BinaryKernel": "nn",
    "ClippingLevel": "nn",
    "ImageDataset": "data",
    "PACT": "nn",
    "binarize": "quantize.weights",
    "create_model": "models.networks",
    "default_config": "config",
    "fold": "ship.fold",
    "hysteresis_binarize": "quantize.hysteresis",
    "load_config": "system.config_files",
    "load_packed": "ship.load",
    "nn": "",  # a module
    "pact": "quantize.activations",
    "train_and_evaluate": "train.loop",
}

__all__ = [
    "PACT",
    "BinaryConv",
    "BinaryKernel",
    "ClippingLevel",
    "ImageDataset",
    "binarize",
    "create_model",
    "default_config",
    "fold",
    "hysteresis_binarize",
    "load_config",
    "load_packed",
    "nn",
    "pact",
    "train_and_evaluate",
]


# Not for type checkers: a module with `__getattr__` would have every name.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        # Imported when used: `qresnet --help` and a refused config must not wait for JAX.
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if not _HOME[name]:
            return importlib.import_module(f"{__name__}.{name}")
        return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
