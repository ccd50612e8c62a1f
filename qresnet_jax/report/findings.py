"""Finds unusual values in the last metrics of a run, and says what can be done about them."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from qresnet_jax.quantize.activations import MIN_CLIPPING_LEVEL
from qresnet_jax.report.style import layers_with, series

_MOST_NAMES = 4


class _Check(NamedTuple):
    metric: str
    least: float  # values from here
    most: float  # to here are unusual
    shown: str  # the format of the value
    meaning: str  # ends the sentence that names the layers and their values


_CHECKS = (
    _Check(
        "never_flipped",
        0.95,
        1.0,
        "{:.1%}",
        "of the signs have never flipped, so the layer is as random as when training began: lower "
        "optim.hysteresis.threshold, make it relative, or raise optim.learning_rate",
    ),
    _Check(
        "held_back",
        0.2,
        1.0,
        "{:.1%}",
        "of the weights have another sign than their latent weights: lower optim.hysteresis.threshold",
    ),
    _Check(
        "alpha",
        0.0,
        10 * MIN_CLIPPING_LEVEL,
        "{:.3f}",
        f"is a clipping level near its minimum of {MIN_CLIPPING_LEVEL}, so little gets through: lower "
        "optim.clipping_level.l2 or optim.clipping_level.learning_rate",
    ),
    _Check(
        "saturation",
        0.3,
        1.0,
        "{:.1%}",
        "of the activations are clipped at the top: raise this stage's model.act_bits",
    ),
)
_STREAM_CHECK = _Check(
    "saturation",
    1e-3,
    1.0,
    "{:.1%}",
    "of the block's output lies at the end of int16's range: lower model.stream_fraction_bits",
)


def findings(records: Sequence[Mapping[str, float]]) -> list[str]:
    """Returns a sentence for each kind of unusual value, which names the layers that have it; [] if there is none.

    It looks for signs that have never flipped (from 95 % of a layer), weights that the hysteresis loop holds back (from
    20 %), clipping levels near their minimum, activations clipped at the top (from 30 %), and saturation of the
    residual stream (from 0.1 %).

    Args:
      records: the lines of `metrics.jsonl`.
    """
    sentences = [_sentence(check, _last(records, check.metric, of_block=False)) for check in _CHECKS]
    sentences.append(_sentence(_STREAM_CHECK, _last(records, "saturation", of_block=True)))
    return [sentence for sentence in sentences if sentence]


def _last(records: Sequence[Mapping[str, float]], metric: str, of_block: bool) -> dict[str, float]:
    """Returns a metric's last values by layer: for blocks (paths of three parts), or for all others."""
    layers = [name for name in layers_with(records, metric) if (name.count(".") == 2) == of_block]
    return {layer: series(records, f"{metric}/{layer}")[1][-1] for layer in layers}


def _sentence(check: _Check, values: Mapping[str, float]) -> str:
    names = [
        f"`{layer}` ({check.shown.format(x)})"
        for layer, x in values.items()
        if check.least <= x <= check.most
    ]
    if not names:
        return ""
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"{', '.join(names[:_MOST_NAMES])}{more}: {check.meaning}."
