"""Unusual values are reported with their layers, usual ones are not, and all advice can be followed."""

import itertools
import random
import re

import pytest

from qresnet_jax.config import default_config, flatten, validate
from qresnet_jax.quantize import registry
from qresnet_jax.report.findings import findings, nothing_unusual

CONV, ACT, BLOCK = "stages.0.0.convs.0", "stages.0.0.acts.1", "stages.0.0"
UNUSUAL = {
    f"never_flipped/{CONV}": 0.97,
    f"held_back/{CONV}": 0.3,
    f"alpha/{ACT}": 0.02,
    f"saturation/{ACT}": 0.4,
    f"stream_saturation/{BLOCK}": 0.02,
}
LOOP = "optim.hysteresis.threshold"


def changed(**fields):
    config = default_config()
    config.update_from_flattened_dict(fields)
    return config


def advice_on(metric, config, layer=None):
    """The pieces of advice on one unusual value, as they stand in its sentence; None if there is no sentence."""
    kind, _, usual_layer = metric.partition("/")
    found = findings([{"step": 1, f"{kind}/{layer or usual_layer}": UNUSUAL[metric]}], config)
    if not found:
        return None
    (sentence,) = found
    assert sentence.startswith(f"`{layer or usual_layer}` (") and sentence.endswith(".")
    return [part for part in re.split(", or |, | or ", "".join(sentence[:-1].split(": ")[2:])) if part]


def followed(advice, config, stage):
    """`(field, value)` of a setting that follows a piece of advice."""
    if match := re.fullmatch(r".* \((.*)=(.*)\)", advice):
        name, value = match.groups()
        return name, {"True": True}.get(value, value)
    name = re.search(r"[a-z_]+(\.[a-z_0-9]+)+|num_epochs", advice)[0]
    value = flatten(config)[name]
    if name == "model.act_bits":
        return name, tuple(bits + (i == stage) for i, bits in enumerate(value))
    if "above 0" in advice:
        assert value == 0
        return name, 0.01
    if advice.startswith("lower "):
        return name, value // 2 if isinstance(value, int) else value / 2
    return name, 2 * value


def test_a_usual_run_has_no_findings(make_records):
    records = [{k: 0.1 if "saturation" in k else v for k, v in record.items()} for record in make_records()]
    assert findings(records, default_config()) == []
    assert nothing_unusual(records, changed(**{LOOP: 0.1})) == (
        "Nothing unusual: no layer's signs are stuck, hysteresis holds few weights back, no clipping level is near its "
        "minimum, and little is saturated."
    )


@pytest.mark.parametrize(
    ("metric", "usual", "unusual", "advice"),
    [
        (f"never_flipped/{CONV}", 0.9, 0.97, LOOP),
        (f"held_back/{CONV}", 0.1, 0.3, LOOP),
        (f"alpha/{ACT}", 0.5, 0.02, "optim.clipping_level.l2"),
        (f"saturation/{ACT}", 0.2, 0.4, "model.act_bits"),
        (f"stream_saturation/{BLOCK}", 1e-4, 0.02, "model.stream_fraction_bits"),
    ],
)
def test_an_unusual_value_at_the_end_is_found(metric, usual, unusual, advice):
    layer, config = metric.partition("/")[2], changed(**{LOOP: 0.1})
    assert findings([{"step": 1, metric: unusual}, {"step": 2, metric: usual}, {"step": 3}], config) == []
    records = [{"step": 1, metric: usual}, {"step": 2, metric: unusual}, {"step": 3}]
    (sentence,) = findings(records, config)
    assert sentence.startswith(f"`{layer}` (") and advice in sentence


SETTINGS = {
    "init_from": ("", "runs/other"),
    "num_epochs": (1, 200),
    LOOP: (0.0, 0.1),
    "optim.hysteresis.relative": (True, False),
    "optim.gradient_clip": (0.0, 1.0),
    "optim.clipping_level.learning_rate": (0.0, 0.01),
    "optim.clipping_level.l2": (0.0, 1e-4),
    "model.activation": tuple(registry.QUANTIZERS),
    "model.act_bits": ((1, 1, 1), (4, 4, 4), (8, 8, 8), (8, 8, 32)),
    "model.stream_fraction_bits": (0, 8),
    "data.holdout": (0.0,),
}


def test_all_advice_can_be_followed_and_changes_the_run():
    combinations = list(itertools.product(*SETTINGS.values()))
    for values in random.Random(0).sample(combinations, 80):
        config = changed(**dict(zip(SETTINGS, values, strict=True)))
        if config.model.activation == "power_of_two" and max(config.model.act_bits) > 4:
            continue
        trains = config.model.activation in ("pact", "lsq", "power_of_two")
        for metric in UNUSUAL:
            if metric.startswith("alpha") and not trains:
                continue
            for advice in advice_on(metric, config) or ():
                _check(advice, config)


def _check(advice, config):
    name, value = followed(advice, config, stage=0)
    fields = flatten(config)
    assert fields[name] != value, advice
    changed_config = config.copy_and_resolve_references()
    changed_config.update_from_flattened_dict({name: value})
    validate(changed_config)
    # These count only with others.
    if name == "optim.hysteresis.relative":
        assert fields[LOOP] > 0
    if name == "optim.clipping_level.l2":
        assert fields["optim.clipping_level.learning_rate"] > 0
    if name.startswith("optim.clipping_level"):
        assert fields["model.activation"] in ("pact", "lsq", "power_of_two")


@pytest.mark.parametrize(
    ("metric", "fields", "advice"),
    [
        (f"never_flipped/{CONV}", {}, ["raise optim.learning_rate", "train for longer (num_epochs)"]),
        (
            f"never_flipped/{CONV}",
            {LOOP: 0.1, "optim.hysteresis.relative": False, "optim.gradient_clip": 0.5},
            [
                "lower optim.hysteresis.threshold",
                "make it relative (optim.hysteresis.relative=True)",
                "raise optim.learning_rate",
                "raise optim.gradient_clip",
                "train for longer (num_epochs)",
            ],
        ),
        (f"never_flipped/{CONV}", {"init_from": "runs/other"}, None),
        (f"held_back/{CONV}", {LOOP: 0.1}, ["lower optim.hysteresis.threshold"]),
        (f"held_back/{CONV}", {}, []),
        (f"alpha/{ACT}", {"optim.clipping_level.l2": 0.0}, ["lower optim.clipping_level.learning_rate"]),
        (
            f"alpha/{ACT}",
            {"optim.clipping_level.learning_rate": 0.0},
            ["let it grow (optim.clipping_level.learning_rate above 0)"],
        ),
        (
            f"saturation/{ACT}",
            {"model.activation": "fixed"},
            ["raise this stage's model.act_bits", "learn the clipping levels (model.activation=pact)"],
        ),
        (f"saturation/{ACT}", {"model.act_bits": (8, 2, 2)}, ["lower optim.clipping_level.l2"]),
        (
            f"saturation/{ACT}",
            {"model.activation": "power_of_two", "model.act_bits": (4, 2, 2), "optim.clipping_level.l2": 0.0},
            [],
        ),
        (f"stream_saturation/{BLOCK}", {"model.stream_fraction_bits": 0}, ["lower optim.learning_rate"]),
    ],
)
def test_advice_depends_on_the_settings(metric, fields, advice):
    assert advice_on(metric, changed(**fields)) == advice


def test_bits_are_raised_in_the_stages_that_can_have_more():
    config = changed(**{"model.act_bits": (8, 2, 2), "optim.clipping_level.l2": 0.0})
    metric = f"saturation/{ACT}"
    assert advice_on(metric, config) == []
    assert advice_on(metric, config, "stages.1.0.acts.0") == ["raise this stage's model.act_bits"]
    assert config.model.act_bits == (8, 2, 2)


@pytest.mark.parametrize(
    ("kinds", "fields", "said"),
    [
        ((), {}, ", but neither signs nor quantized activations were measured."),
        (("never_flipped", "held_back"), {}, ": no layer's signs are stuck."),
        (("saturation",), {}, ": little is saturated."),
        (("alpha", "saturation"), {}, ": no clipping level is near its minimum and little is saturated."),
        (
            ("held_back", "saturation"),
            {LOOP: 0.1},
            ": hysteresis holds few weights back and little is saturated.",
        ),
    ],
)
def test_what_was_not_measured_is_not_called_usual(kinds, fields, said):
    records = [{"step": 1, "train_loss": 1.0} | {f"{kind}/{CONV}": 0.5 for kind in kinds}]
    assert nothing_unusual(records, changed(**fields)) == f"Nothing unusual{said}"


def test_many_layers_are_counted():
    record = {"step": 1} | {f"alpha/stages.0.{i}.acts.0": 0.01 for i in range(12)}
    (sentence,) = findings([record], default_config())
    assert sentence.count("`") == 8 and "and 8 more" in sentence and "stages.0.3.acts.0" in sentence


@pytest.mark.parametrize("layer", ["act1", "acts.7", "body.acts.0"])
def test_no_stage_is_advised_where_layers_are_not_in_stages(layer):
    advice = advice_on(f"saturation/{ACT}", default_config(), layer)
    assert advice and not any("this stage" in text for text in advice)
