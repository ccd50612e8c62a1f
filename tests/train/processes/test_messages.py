"""What JAX's distributed runtime says becomes one line that tells what to do."""

import pytest

from qresnet_jax.config import default_config
from qresnet_jax.train.processes.messages import explain, late, named

ABORT = "F1129 16:46:21.001673    9485 client.h:80] Terminating process because ... absl::Status: {}\n*** Check failure"


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (
            "UNAVAILABLE: The following tasks are unhealthy (stopped sending heartbeats):\n1\n12\nThe tasks have crashed.",
            "processes 1, 12 ended or cannot be reached: there was no sign of life for 60 s",
        ),
        (
            "UNAVAILABLE: Failed to send RPC to coordination service. Either the leader task was preempted/died",
            "process 0, the coordinator at a:1, ended or cannot be reached",
        ),
        (
            "DEADLINE_EXCEEDED: Barrier timed out. Id: [Init]Wait_for_all_tasks_to_register::0. This usually happens\n"
            "# of tasks that reached the barrier: 2/3.\nThe first task at the barrier: 0. Some timed out task names:\n1\n\n",
            "process 1 did not come within 300 s",
        ),
        (
            "ABORTED: 1 unexpectedly tried to connect with a different incarnation. It has likely restarted.",
            "a process was started twice",
        ),
        (
            "INVALID_ARGUMENT: Unexpected task registered with task=2\n\nRPC: /xla.coordination/RegisterTask",
            "process 0 does not expect a process 2",
        ),
        (
            "DEADLINE_EXCEEDED: Deadline Exceeded\n\nRPC: /xla.coordination.CoordinationService/RegisterTask",
            "process 0, the coordinator, cannot be reached at a:1 within 300 s",
        ),
        ("INTERNAL: something else", "JAX has ended this process (INTERNAL: something else)"),
    ],
)
def test_what_jax_prints_before_it_aborts_is_explained_in_one_line(status, text):
    line = explain(ABORT.format(status), default_config().distributed, "a:1")
    assert line.startswith(text) and "\n" not in line


def test_the_processes_that_did_not_come_are_named():
    text = "Barrier timed out. Some timed out task names:\n/job:jax_worker/replica:0/task:3\n/job:jax_worker/replica:0/task:1\n"
    assert late(text) == [1, 3] and named(late(text)) == "processes 1, 3"
    assert late("nothing of the kind") == [] and named([7]) == "process 7"
