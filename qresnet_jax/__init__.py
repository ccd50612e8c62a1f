"""Training of convolutional networks with 1-bit weights and low-bit feature maps, in JAX."""

import importlib

_HOME = {
    "BinaryConv": "layers",
    "BinaryKernel": "layers",
    "ClippingLevel": "layers",
    "PACT": "layers",
    "binarize": "quantizers",
    "create_model": "resnet",
    "default_config": "config",
    "fold": "deploy.fold",
    "hysteresis_binarize": "hysteresis",
    "load_packed": "deploy.packed_network",
    "pact": "quantizers",
    "train_and_evaluate": "train.loop",
}

__all__ = list(_HOME)


def __getattr__(name: str):
    # Imported where used: `main.py --help` and a refused config shall not wait for JAX.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__():
    return sorted([*globals(), *_HOME])
