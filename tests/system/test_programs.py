"""Other programs are run for a limited time, and whoever starts one says how long it may take."""

import ast
import pathlib
import sys
import time

import pytest

from qresnet_jax.system.programs import TimeLimitError, run_program

REPO = pathlib.Path(__file__).parents[2]
SOURCES = sorted(
    path
    for name in ("qresnet_jax", "benchmarks", "examples", "tests")
    for path in (REPO / name).rglob("*.py")
)


def test_a_program_gets_its_input_and_gives_its_output_messages_and_status(tmp_path):
    code = "import os, sys; print(os.getcwd(), sys.stdin.read()); print('no', file=sys.stderr); sys.exit(3)"
    done = run_program([sys.executable, "-c", code], 60, directory=tmp_path, given=b"in")
    assert (done.returncode, done.stdout, done.stderr) == (3, f"{tmp_path} in\n".encode(), b"no\n")


def test_a_program_that_hangs_is_killed_with_what_it_has_started(tmp_path):
    """A child holds the pipes open, as `cc1` does after its `gcc` has been killed; its file must not appear."""
    late = tmp_path / "late"
    with pytest.raises(TimeLimitError, match=r"^sh -c .* did not end within 0\.2 seconds$"):
        run_program(["sh", "-c", f"(sleep 1; touch {late}) & sleep 100"], 0.2)
    time.sleep(1.2)
    assert not late.exists()


def test_a_program_that_is_not_there_is_an_error_of_the_system():
    with pytest.raises(FileNotFoundError):
        run_program(["no_such_program"], 1)


RUNS = {"run", "call", "check_call", "check_output"}
PROCESSES = {"process", "child", "peer", "server"}  # what the sources call a Popen
# These wait for a limited time before they read a line.
READERS = {"benchmarks/children.py", "tests/docs/commands.py"}


def unlimited(code):
    """The lines of calls that wait for another process without a limit of time."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, method = ast.unparse(node.func.value), node.func.attr
            runs = owner == "subprocess" and method in RUNS
            waits = owner.split(".")[-1] in PROCESSES and method in ("wait", "communicate")
            limited = "timeout" in {keyword.arg for keyword in node.keywords}
            if ((runs or waits) and not limited) or (owner.endswith(".stdout") and method == "readline"):
                yield node.lineno


def test_the_check_sees_a_call_without_a_limit():
    without = ["subprocess.run(x)", "process.wait()", "self.process.communicate(x)", "x.stdout.readline()"]
    limited = [
        "subprocess.run(x, timeout=1)",
        "process.wait(timeout=1)",
        "subprocess.Popen(x)",
        "stop.wait()",
    ]
    assert list(unlimited("\n".join(without + limited))) == [1, 2, 3, 4]


def test_no_process_is_waited_for_without_a_limit():
    found = [(str(path.relative_to(REPO)), line) for path in SOURCES for line in unlimited(path.read_text())]
    assert [f"{name}:{line}" for name, line in found if name not in READERS] == []
