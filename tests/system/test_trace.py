"""Traces: which operations ran on the devices, and for how long, each without what runs inside it."""

from types import SimpleNamespace

import pytest

from qresnet_jax.system.trace import Event, Operation, events, operations


def test_an_operation_does_not_count_what_runs_inside_it():
    line = [
        Event("loop", 0, 100),
        Event("inner", 10, 30),
        Event("innermost", 20, 10),
        Event("inner", 50, 40),
        Event("after", 100, 5),
    ]
    expected = [("inner", 2, 60e-9), ("loop", 1, 30e-9), ("innermost", 1, 10e-9), ("after", 1, 5e-9)]
    found = operations([line])
    assert [(one.name, one.executions) for one in found] == [(name, count) for name, count, _ in expected]
    assert [one.seconds for one in found] == pytest.approx([seconds for *_, seconds in expected])
    assert sum(one.seconds for one in found) == pytest.approx(105e-9)  # as long as the line is busy


def test_lines_are_summed_and_do_not_nest_in_each_other():
    first, second = [Event("a", 0, 10)], [Event("a", 2, 5), Event("b", 20, 1)]
    a, b = operations([second, first])
    assert (a, b) == (Operation("a", 2, pytest.approx(15e-9)), Operation("b", 1, pytest.approx(1e-9)))
    assert operations([]) == []


def plane(name, lines):
    """A plane of a trace: `{line: [(event, statistics)]}`, each event one nanosecond long."""
    return SimpleNamespace(
        name=name,
        lines=[
            SimpleNamespace(
                name=line,
                events=[
                    SimpleNamespace(name=event, start_ns=i, duration_ns=1, stats=list(stats.items()))
                    for i, (event, stats) in enumerate(of_line)
                ],
            )
            for line, of_line in lines.items()
        ],
    )


def step(op, module="jit_steps"):
    return {"hlo_op": op, "hlo_module": module, "device_ordinal": 0}


HOST = plane(
    "/host:CPU",
    {
        "python": [("train", {"step_num": 0})],
        "thread/1": [("fusion.1", step("fusion.1")), ("other", step("x", "jit_f")), ("Rendezvous", {})],
        "thread/2": [("ThunkExecutor::Execute", {})],
    },
)


def test_a_cpu_shows_its_operations_on_threads():
    assert events(SimpleNamespace(planes=[HOST]), "jit_steps") == [[Event("fusion.1", 0, 1)]]


def test_a_gpu_shows_kernels_on_streams_under_their_operations():
    gpu = plane(
        "/device:GPU:0",
        {
            "XLA Modules": [("jit_steps(1)", {})],
            "Stream #1(Compute)": [("sm90_xmma", step("convolution.3")), ("kernel", step("y", "jit_f"))],
            "Stream #2(MemcpyD2H)": [("MemcpyD2H", {"bytes": 4})],
        },
    )
    expected = [[Event("convolution.3", 0, 1)], [Event("MemcpyD2H", 0, 1)]]
    assert events(SimpleNamespace(planes=[HOST, gpu]), "jit_steps") == expected


def test_a_tpu_has_a_line_of_operations():
    tpu = plane(
        "/device:TPU:0",
        {"Steps": [("1", {})], "XLA Ops": [("%fusion.7 = f32[8]{0} fusion(%a)", {}), ("copy.1", {})]},
    )
    assert events(SimpleNamespace(planes=[HOST, tpu]), "jit_steps") == [
        [Event("fusion.7", 0, 1), Event("copy.1", 1, 1)]
    ]
