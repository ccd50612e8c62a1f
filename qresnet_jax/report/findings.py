"""Finds unusual values in the last metrics of a run, and says what can be done about them with its settings."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.errors import ConfigError
from qresnet_jax.nn import activations
from qresnet_jax.quantize import registry
from qresnet_jax.quantize.activations import MIN_CLIPPING_LEVEL
from qresnet_jax.report.style import layers_with, series

_MOST_NAMES = 4

_Test = Callable[[ConfigDict, Sequence[str]], bool]  # of the run's config and the unusual layers


class _Advice(NamedTuple):
    text: str
    fits: _Test  # whether a run can follow it, and would compute something else then


class _Check(NamedTuple):
    metric: str
    least: float  # values from here
    most: float  # to here are unusual
    shown: str  # the format of the value
    meaning: str  # ends the sentence that names the layers and their values
    advice: tuple[_Advice, ...]
    fits: _Test  # whether the value is unusual in a run with this config


def _has_loop(config: ConfigDict, layers: Sequence[str]) -> bool:
    return config.optim.hysteresis.threshold > 0


def _has_absolute_loop(config: ConfigDict, layers: Sequence[str]) -> bool:
    return _has_loop(config, layers) and not config.optim.hysteresis.relative


def _always(config: ConfigDict, layers: Sequence[str]) -> bool:
    return True


def _clips_gradients(config: ConfigDict, layers: Sequence[str]) -> bool:
    return config.optim.gradient_clip > 0


def _starts_at_random(config: ConfigDict, layers: Sequence[str]) -> bool:
    return not config.init_from


def _has_clipping_levels(config: ConfigDict, layers: Sequence[str]) -> bool:
    info = registry.QUANTIZERS.get(config.model.activation)
    return info is not None and issubclass(getattr(activations, info.layer), activations.ClippedQuantizer)


def _trains_clipping_levels(config: ConfigDict, layers: Sequence[str]) -> bool:
    return _has_clipping_levels(config, layers) and config.optim.clipping_level.learning_rate > 0


def _keeps_clipping_levels(config: ConfigDict, layers: Sequence[str]) -> bool:
    return _has_clipping_levels(config, layers) and config.optim.clipping_level.learning_rate == 0


def _shrinks_clipping_levels(config: ConfigDict, layers: Sequence[str]) -> bool:
    return _trains_clipping_levels(config, layers) and config.optim.clipping_level.l2 > 0


def _can_have_more_bits(config: ConfigDict, layers: Sequence[str]) -> bool:
    def with_more(stage: int) -> ConfigDict:
        changed, bits = config.copy_and_resolve_references(), list(config.model.act_bits)
        bits[stage] += 1
        changed.model.act_bits = tuple(bits)
        return changed

    # Of other networks, act_bits says nothing about the place of a layer.
    stages = {int(layer.split(".")[1]) for layer in layers if re.match(r"stages\.\d", layer)}
    return any(_is_valid(with_more(stage)) for stage in stages)


def _could_learn_clipping_levels(config: ConfigDict, layers: Sequence[str]) -> bool:
    changed = config.copy_and_resolve_references()
    changed.model.activation = "pact"
    return not _has_clipping_levels(config, layers) and _is_valid(changed)


def _is_valid(config: ConfigDict) -> bool:
    try:
        configs.validate(config)
    except ConfigError:
        return False
    return True


def _has_fraction(config: ConfigDict, layers: Sequence[str]) -> bool:
    return config.model.stream_fraction_bits > 0


_CHECKS = (
    _Check(
        "never_flipped",
        0.95,
        1.0,
        "{:.1%}",
        "of the signs have never flipped, so the layer is as random as when training began",
        (
            _Advice("lower optim.hysteresis.threshold", _has_loop),
            _Advice("make it relative (optim.hysteresis.relative=True)", _has_absolute_loop),
            _Advice("raise optim.learning_rate", _always),
            _Advice("raise optim.gradient_clip", _clips_gradients),
            _Advice("train for longer (num_epochs)", _always),
        ),
        _starts_at_random,  # else signs that stay are what training begins with
    ),
    _Check(
        "held_back",
        0.2,
        1.0,
        "{:.1%}",
        "of the weights have another sign than their latent weights",
        (
            _Advice("lower optim.hysteresis.threshold", _has_loop),
            _Advice("make it relative (optim.hysteresis.relative=True)", _has_absolute_loop),
        ),
        _always,
    ),
    _Check(
        "alpha",
        0.0,
        10 * MIN_CLIPPING_LEVEL,
        "{:.3f}",
        f"is a clipping level near its minimum of {MIN_CLIPPING_LEVEL}, so little gets through",
        (
            _Advice("lower optim.clipping_level.l2", _shrinks_clipping_levels),
            _Advice("lower optim.clipping_level.learning_rate", _trains_clipping_levels),
            _Advice("let it grow (optim.clipping_level.learning_rate above 0)", _keeps_clipping_levels),
        ),
        _always,
    ),
    _Check(
        "saturation",
        0.3,
        1.0,
        "{:.1%}",
        "of the activations are clipped at the top",
        (
            _Advice("raise this stage's model.act_bits", _can_have_more_bits),
            _Advice("lower optim.clipping_level.l2", _shrinks_clipping_levels),
            _Advice(
                "let the clipping levels grow (optim.clipping_level.learning_rate above 0)",
                _keeps_clipping_levels,
            ),
            _Advice("learn the clipping levels (model.activation=pact)", _could_learn_clipping_levels),
        ),
        _always,
    ),
    _Check(
        "stream_saturation",
        1e-3,
        1.0,
        "{:.1%}",
        "of the block's output lies at the end of int16's range",
        (
            _Advice("lower model.stream_fraction_bits", _has_fraction),
            _Advice("lower optim.learning_rate", _always),
        ),
        _always,
    ),
)


def findings(records: Sequence[Mapping[str, float]], config: ConfigDict) -> list[str]:
    """Returns a sentence for each kind of unusual value, which names the layers that have it; [] if there is none.

    It looks for signs that have never flipped (from 95 % of a layer), weights that the hysteresis loop holds back (from
    20 %), clipping levels near their minimum, activations clipped at the top (from 30 %), and saturation of the
    residual stream (from 0.1 %). A sentence ends with what can be changed in the run's settings, if there is anything.

    Args:
      records: the lines of `metrics.jsonl`.
      config: the config of the run.
    """
    sentences = [_sentence(check, _last(records, check.metric), config) for check in _CHECKS]
    return [sentence for sentence in sentences if sentence]


def nothing_unusual(records: Sequence[Mapping[str, float]], config: ConfigDict) -> str:
    """Returns the sentence that says, where there are no findings, what has been looked at."""
    looked_at = [
        text
        for metric, text in (
            ("never_flipped", "no layer's signs are stuck"),
            ("held_back", "hysteresis holds few weights back"),
            ("alpha", "no clipping level is near its minimum"),
            ("saturation", "little is saturated"),
        )
        if layers_with(records, metric) and (metric != "held_back" or _has_loop(config, ()))
    ]
    if not looked_at:
        return "Nothing unusual, but neither signs nor quantized activations were measured."
    return f"Nothing unusual: {_listed(looked_at, 'and')}."


def _listed(parts: Sequence[str], word: str) -> str:
    *most, last = parts
    if len(most) < 2:
        return f" {word} ".join(parts)
    return f"{', '.join(most)}, {word} {last}"


def _last(records: Sequence[Mapping[str, float]], metric: str) -> dict[str, float]:
    """Returns a metric's last values by layer or block."""
    return {layer: series(records, f"{metric}/{layer}")[1][-1] for layer in layers_with(records, metric)}


def _sentence(check: _Check, values: Mapping[str, float], config: ConfigDict) -> str:
    unusual = {layer: x for layer, x in values.items() if check.least <= x <= check.most}
    layers = list(unusual)
    if not layers or not check.fits(config, layers):
        return ""
    names = [f"`{layer}` ({check.shown.format(x)})" for layer, x in unusual.items()]
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    advice = [advice.text for advice in check.advice if advice.fits(config, layers)]
    end = f": {_listed(advice, 'or')}" if advice else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more}: {check.meaning}{end}."
