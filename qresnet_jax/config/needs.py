"""Says which fields count only together with others: without a teacher, for example, its share of the loss is nothing."""

from collections.abc import Callable

from ml_collections import ConfigDict

from qresnet_jax.config.fields import default_config, flatten
from qresnet_jax.models import architecture

_Need = tuple[str, Callable[[ConfigDict], bool]]  # what a field needs, in words and as a test of a config


def _of_model(text: str, test: Callable[[ConfigDict], bool]) -> _Need:
    """Returns a need of `config.model`; a network of the user's own meets it, as only its function knows what it reads."""
    return text, lambda c: architecture.own_parts(c.model.name) is not None or test(c.model)


_RESNET = _of_model("config.model.name=resnet", lambda model: model.name == architecture.RESNET)
_DENSE_LAYERS = _of_model(
    f"config.model.name={' or '.join(architecture.OF_ONE_SIZE)}",
    lambda model: model.name in architecture.OF_ONE_SIZE,
)
_BINARY_WEIGHTS = _of_model("config.model.weight_bits=1", lambda model: model.weight_bits == 1)
_SIGMOID = _of_model("config.model.activation=sigmoid", lambda model: model.activation == "sigmoid")
_MUON: _Need = ("config.optim.name=muon", lambda c: c.optim.name == "muon")
_LOOP: _Need = ("config.optim.hysteresis.threshold above 0", lambda c: c.optim.hysteresis.threshold > 0)
_TEACHER: _Need = ("config.optim.distillation.teacher", lambda c: c.optim.distillation.teacher != "")

_NEEDS = {
    "model.depth": _RESNET,
    "model.block": _RESNET,
    "model.stem": _RESNET,
    "model.image_size": _DENSE_LAYERS,
    "model.weight_scale": _BINARY_WEIGHTS,
    "optim.latent_rate": _BINARY_WEIGHTS,
    "optim.muon.learning_rate": _MUON,
    "optim.muon.momentum": _MUON,
    "optim.hysteresis.threshold": _BINARY_WEIGHTS,
    "optim.hysteresis.relative": _LOOP,
    "optim.distillation.weight": _TEACHER,
    "optim.distillation.temperature": _TEACHER,
    "optim.temperature.start": _SIGMOID,
    "optim.temperature.end": _SIGMOID,
}


def unmet_need(name: str, config: ConfigDict) -> str:
    """Returns what a field lacks to have an effect in a config, such as "config.optim.name=muon"; "" if it lacks nothing.

    Args:
      name: the dotted name of the field.
      config: a config that `validate` accepts.
    """
    if name not in _NEEDS:
        return ""
    need, is_met = _NEEDS[name]
    return "" if is_met(config) else need


def unused_fields(config: ConfigDict) -> dict[str, str]:
    """Returns the fields that are not at their defaults but lack something to have an effect, with what they lack.

    Args:
      config: a config that `validate` accepts.
    """
    usual = flatten(default_config())
    changed = (name for name, value in flatten(config).items() if value != usual[name])
    return {name: need for name in changed if (need := unmet_need(name, config))}
