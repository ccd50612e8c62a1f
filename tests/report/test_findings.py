"""Unusual values are reported with their layers, usual ones are not."""

import pytest

from qresnet_jax.report.findings import findings


def test_a_usual_run_has_no_findings(make_records):
    records = [{k: 0.1 if "saturation" in k else v for k, v in record.items()} for record in make_records()]
    assert findings(records) == []


@pytest.mark.parametrize(
    ("metric", "usual", "unusual", "advice"),
    [
        ("never_flipped/stages.0.0.convs.0", 0.9, 0.97, "optim.hysteresis.threshold"),
        ("held_back/stages.0.0.convs.0", 0.1, 0.3, "optim.hysteresis.threshold"),
        ("alpha/stages.0.0.acts.1", 0.5, 0.02, "optim.clipping_level.l2"),
        ("saturation/stages.0.0.acts.1", 0.2, 0.4, "model.act_bits"),
        ("saturation/stages.0.0", 1e-4, 0.02, "model.stream_fraction_bits"),
    ],
)
def test_an_unusual_value_at_the_end_is_found(metric, usual, unusual, advice):
    layer = metric.partition("/")[2]
    assert findings([{"step": 1, metric: unusual}, {"step": 2, metric: usual}, {"step": 3}]) == []
    (sentence,) = findings([{"step": 1, metric: usual}, {"step": 2, metric: unusual}, {"step": 3}])
    assert sentence.startswith(f"`{layer}` (") and advice in sentence


def test_many_layers_are_counted():
    record = {"step": 1} | {f"alpha/stages.0.{i}.acts.0": 0.01 for i in range(12)}
    (sentence,) = findings([record])
    assert sentence.count("`") == 8 and "and 8 more" in sentence and "stages.0.3.acts.0" in sentence
