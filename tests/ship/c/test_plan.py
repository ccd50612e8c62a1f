import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes, reference
from qresnet_jax.ship.c.plan import IMAGE, Step, allocate, plan
from qresnet_jax.ship.geometry import Window
from tests.ship.random_networks import random_network


def test_a_block_is_three_loops(trained_named):
    _, network = trained_named("resnet20")
    steps = plan(network, 32, 32).steps
    # Stem, 9 blocks of quantizer, two convolutions, two of them with a projection, mean, classifier.
    assert len(steps) == 1 + 9 * 3 + 2 + 2
    assert steps[0].relu and steps[0].addend is None
    assert steps[3].relu and steps[3].addend == steps[0].result


def test_steps_are_every_node_once(trained):
    _, network = trained
    size = (network.height, network.width)
    results = [step.result for step in plan(network, *size).steps]
    assert results == sorted(results) and results[-1] == len(network.nodes) - 1
    assert len(set(results)) == len(results)


@pytest.mark.parametrize("seed", range(20))
def test_results_have_the_sizes_of_the_reference_and_every_step_reads_earlier_ones(seed):
    network, size = random_network(seed)
    planned = plan(network, *size)
    values = reference.node_values(network, np.zeros((1, *size, network.channels), np.uint8))
    assert (planned.size(IMAGE).height, planned.size(IMAGE).width) == size
    done = set()
    for step in planned.steps:
        assert done.issuperset(step.operands)
        done.add(step.result)
        if not isinstance(step.last, nodes.ClassifierNode):
            result = planned.size(step.result)
            assert values[step.result].shape[1:3] == (result.height, result.width)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_no_two_results_in_use_at_once_overlap(seed, n):
    rng = np.random.default_rng(seed)
    pool, concat = nodes.MaxPoolNode(window=Window((2, 2))), nodes.ConcatNode()
    steps = [Step(result=0, source=IMAGE, last=pool)]
    for t in range(1, n + 1):
        last = (None, pool, concat)[rng.integers(3)]
        addend = int(rng.integers(t)) if last is None and rng.random() < 0.5 else None
        others = tuple(rng.integers(t, size=2).tolist()) if last is concat else ()
        steps.append(Step(result=t, source=int(rng.integers(t)), last=last, addend=addend, others=others))
    sizes = {t: int(rng.choice([0, 8, 8, 24])) for t in range(n + 1)}
    scratch = rng.integers(0, 50, n + 1).tolist()
    first = int(rng.integers(n + 1)) if rng.random() < 0.5 else 0
    steps, scratch = steps[first:], scratch[first:]
    outputs = set(rng.integers(n + 1, size=2).tolist()) if first else set()
    inputs = {x for step in steps for x in step.operands if x < first} | {x for x in outputs if x < first}
    memory = allocate(steps, sizes, scratch, 4, inputs, outputs)
    content = np.full(memory.nbytes, -1)
    for x in inputs:
        content[memory.offsets[x] : memory.offsets[x] + sizes[x]] = x
    for t, step in enumerate(steps):
        at = memory.offsets[step.result]
        assert at % 4 == 0 and memory.scratch[t] % 4 == 0
        content[memory.scratch[t] : memory.scratch[t] + scratch[t]] = -2
        for x in step.operands:
            assert np.all(content[memory.offsets[x] : memory.offsets[x] + sizes[x]] == x)
        # Written over an operand is only what is read at the same place.
        for x in step.operands:
            if (
                sizes[x]
                and sizes[step.result]
                and at < memory.offsets[x] + sizes[x]
                and memory.offsets[x] < at + sizes[step.result]
            ):
                assert at == memory.offsets[x] and sizes[x] == sizes[step.result] and step.last is None
        content[at : at + sizes[step.result]] = step.result
        assert np.all(content[memory.scratch[t] : memory.scratch[t] + scratch[t]] == -2)
    for x in outputs:
        assert np.all(content[memory.offsets[x] : memory.offsets[x] + sizes[x]] == x)
