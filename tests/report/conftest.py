"""The records of a made-up run."""

import numpy as np
import pytest

LAYERS = ("stages.0.0.convs.0", "stages.0.0.convs.1", "stages.1.0.convs.0", "stages.1.0.project")
ACTS = ("stages.0.0.acts.0", "stages.0.0.acts.1", "stages.1.0.acts.0")


def _records(steps=30, layers=LAYERS, acts=ACTS, validation=True):
    rng = np.random.default_rng(0)
    records = []
    for step in range(10, 10 * steps + 1, 10):
        record = {"step": step, "train_loss": 3 / step, "train_accuracy": 1 - 1 / step}
        for layer in layers:
            record |= {
                f"{kind}/{layer}": rng.uniform(0, 0.1) for kind in ("flips", "held_back", "never_flipped")
            }
        for act in acts:
            shares = rng.dirichlet(np.ones(4))
            record |= {f"alpha/{act}": rng.uniform(2, 3), f"saturation/{act}": shares[3]}
            record |= {f"occupancy/{act}/{q}": share for q, share in enumerate(shares)}
        if validation:
            record |= {"eval_loss": 4 / step, "eval_accuracy": 1 - 2 / step}
        records.append(record)
    return records


@pytest.fixture
def make_records():
    """`make_records(steps, layers, acts, validation)`: lines of a `metrics.jsonl`."""
    return _records
