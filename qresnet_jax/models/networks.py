"""Builds the network that a config names: one of ours, or a user's own from a file or a package."""

import contextlib
import importlib
import importlib.util
import os
import pathlib
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax.errors import ConfigError
from qresnet_jax.models import resnet
from qresnet_jax.models.architecture import RESNET, own_parts
from qresnet_jax.models.mlp import Mlp
from qresnet_jax.models.mobilenet import MobileNet
from qresnet_jax.models.vgg_small import VggSmall
from qresnet_jax.system.config_files import errors_of

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def create_model(config: "ConfigDict", *, rngs: nnx.Rngs, dtype: DTypeLike = "float32") -> nnx.Module:
    """Builds the network that `config.model` describes.

    `config.name` is "resnet", "vgg_small", "mlp" or "mobilenet", or "FILE.py:FUNCTION" or "PACKAGE.MODULE:FUNCTION" for a
    network of the user's own. The function is called with `(config, rngs=rngs)`, and returns a module that is made of the layers in `qresnet_jax.nn`.

    Args:
      config: the `model` part of a config, see `qresnet_jax.config.default_config`.
      rngs: source of the `params` keys.
      dtype: dtype of activations and convolutions of our networks, "float32" or "bfloat16". Parameters and statistics are
        float32.

    Returns:
      A module that maps normalised images, float `[N, H, W, C]`, to logits, float32 `[N, classes]`.

    Raises:
      ConfigError: a network of the user's own cannot be loaded, or is no module.
      ValueError: if a depth, name or number of bits is not possible (the message names the field), or if
        `config` is the whole config instead of its `model` part.
    """
    is_whole = hasattr(config, "model")  # which `resnet.create_model` refuses
    parts = None if is_whole else own_parts(config.name)
    if parts is None:
        create = resnet.create_model if is_whole else _OURS[config.name]
        return create(config, rngs=rngs, dtype=dtype)
    function, path = _function(*parts)
    with errors_of(path):
        model = function(config, rngs=rngs)
    if not isinstance(model, nnx.Module):
        raise ConfigError(
            f"config.model.name={config.name!r}: the function must return a Flax NNX module, got {type(model).__name__}"
        )
    return model


_OURS: dict[str, Callable[..., nnx.Module]] = {
    RESNET: resnet.create_model,
    "vgg_small": VggSmall,
    "mlp": Mlp,
    "mobilenet": MobileNet,
}


def _function(source: str, name: str) -> tuple[Callable[..., Any], pathlib.Path]:
    """Returns a function of a file or a package, and the file that it is in."""
    try:
        if source.endswith(".py"):
            module = _of_file(pathlib.Path(source))
        else:
            if not {"", os.getcwd()} & set(sys.path):  # as `python -m` has it
                sys.path.append(os.getcwd())
            module = importlib.import_module(source)
        function: Callable[..., Any] = getattr(module, name)
    except (ImportError, OSError, AttributeError) as error:
        raise ConfigError(
            f"config.model.name='{source}:{name}': cannot be loaded ({error}): give FILE.py:FUNCTION or "
            f"PACKAGE.MODULE:FUNCTION, as seen from the current directory, {os.getcwd()}; a run keeps the name that it was given"
        ) from error
    return function, pathlib.Path(module.__file__ or source)


def _of_file(path: pathlib.Path) -> Any:
    """Returns the module of a file, which is executed once."""
    path = path.expanduser().resolve()
    name = f"qresnet_jax_own_{path.stem}_{abs(hash(str(path))):x}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None  # as the name ends in .py
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            with errors_of(path) if path.is_file() else contextlib.nullcontext():
                spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]
