"""One process alone; `test_processes.py` has real groups of them."""

from qresnet_jax.train.processes import Processes


def test_one_process_alone_agrees_with_itself_and_waits_for_nobody():
    alone = Processes()
    alone.wait("nothing", 1)
    alone.agree("all", {"a": 1}, "")
    assert alone.is_first and alone.share("name", "value") == "value"
