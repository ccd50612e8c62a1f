"""Reads what JAX's distributed runtime says when processes are missing or lost, and says it in one line."""

import re

from ml_collections import ConfigDict


def explain(text: str, given: ConfigDict, address: str) -> str:
    """Returns in one line why JAX's distributed runtime has aborted a process.

    Args:
      text: what it has printed.
      given: `config.distributed`.
      address: of the coordinator.
    """
    again = "What was saved is kept: start all processes again to continue"
    if lost := _tasks(text, "stopped sending heartbeats):"):
        return f"{named(lost)} ended or cannot be reached: there was no sign of life for {given.timeout} s. {again}"
    if absent := late(text):
        return f"{named(absent)} did not come within {given.start_timeout} s: start all processes at the same time"
    if "incarnation" in text:
        return (
            "a process was started twice, or restarted while the others ran: give each process another "
            "config.distributed.process_id, and start all of them again"
        )
    if found := re.search(r"Unexpected task registered with task=(\d+)", text):
        return f"process 0 does not expect a process {found[1]}: give the same config.distributed.num_processes to all"
    if "RegisterTask" in text:
        return (
            f"process 0, the coordinator, cannot be reached at {address} within {given.start_timeout} s, or another "
            f"process has the process_id of this one: start process 0, and see its log"
        )
    if "leader task" in text or "Socket closed" in text:
        return f"process 0, the coordinator at {address}, ended or cannot be reached. {again}"
    reasons = [line.split("absl::Status: ")[-1] for line in text.splitlines() if re.match(r"F\d{4} ", line)]
    return f"JAX has ended this process ({reasons[-1] if reasons else text.strip()[-500:]}). {again}"


def late(text: str) -> list[int]:
    """Returns the numbers of the processes that did not come to a barrier in time, as JAX's message lists them."""
    return _tasks(text, "timed out task names:")


def named(numbers: list[int]) -> str:
    """Returns "process 1" or "processes 1, 2"."""
    return f"process{'es' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _tasks(text: str, after: str) -> list[int]:
    """Returns the numbers of processes that a message of JAX lists, one in each line after the words `after`."""
    found = re.search(re.escape(after) + r"\s*((?:\S*?\d+\n)+)", f"{text}\n")
    return sorted({int(n) for n in re.findall(r"(\d+)\n", found[1])}) if found else []
