import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax.ship import nodes
from qresnet_jax.ship.c.plan import Step, allocate, plan


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


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12))
def test_no_two_results_in_use_at_once_overlap(seed, n):
    rng = np.random.default_rng(seed)
    steps = [Step(result=0, source=-1, last=nodes.MaxPoolNode())]
    for t in range(1, n + 1):
        last = [None, nodes.MaxPoolNode()][rng.integers(2)]
        addend = int(rng.integers(t)) if last is None and rng.random() < 0.5 else None
        steps.append(Step(result=t, source=int(rng.integers(t)), last=last, addend=addend))
    sizes = {t: int(rng.choice([0, 8, 8, 24])) for t in range(n + 1)}
    scratch = rng.integers(0, 50, n + 1).tolist()
    memory = allocate(steps, sizes, scratch, 4)
    content = np.full(memory.nbytes, -1)
    for t, step in enumerate(steps):
        at = memory.offsets[t]
        assert at % 4 == 0 and memory.scratch[t] % 4 == 0
        content[memory.scratch[t] : memory.scratch[t] + scratch[t]] = -2
        for x in step.operands:
            assert np.all(content[memory.offsets[x] : memory.offsets[x] + sizes[x]] == x)
        # Written over an operand is only what is read at the same place.
        for x in step.operands:
            if (
                sizes[x]
                and sizes[t]
                and at < memory.offsets[x] + sizes[x]
                and memory.offsets[x] < at + sizes[t]
            ):
                assert at == memory.offsets[x] and sizes[x] == sizes[t] and step.last is None
        content[at : at + sizes[t]] = t
        assert np.all(content[memory.scratch[t] : memory.scratch[t] + scratch[t]] == -2)
