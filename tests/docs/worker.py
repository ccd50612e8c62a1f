"""Runs commands of the documents in forks of one process that has imported what they need; see `test_docs.py`.

Reads a JSON object a line, with `words`, `directory` and `trial`, and answers each with `status` and `output`. The first word is
`qresnet` or `python`, as in the documents. A trial checks a command's flags and config by the real code, and goes no further.
"""

import json
import os
import runpy
import sys
import tempfile
import traceback

import sklearn.datasets  # noqa: F401  the first of what takes seconds to import

import qresnet_jax.__main__ as program
import qresnet_jax.report.compare
import qresnet_jax.train.evaluator
import qresnet_jax.train.loop  # noqa: F401
from qresnet_jax.commands import Command
from qresnet_jax.commands.sweep.plan import parse_together, plan


def accept(command, config, workdir, *, seeds=None, grid=None, given=(), together=None):
    """Stands for a command, and plans what would be trained."""
    parse_together(together)
    print("accepted,", len(plan(config, seeds, grid or (), given)), "runs")


def execute(words, trial):
    """Runs a command, in a fork."""
    if trial:
        program.restart_with_large_pages = program.cache_compilations = lambda: None
        Command.__call__ = accept
    if words[0] == "qresnet":
        sys.argv = words
        program.run()
    elif words[1] == "-m":
        sys.argv = words[2:]
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    else:
        sys.argv = words[1:]
        sys.path.insert(0, os.path.dirname(words[1]))
        runpy.run_path(words[1], run_name="__main__")


def in_a_fork(words, directory, trial):
    with tempfile.TemporaryFile("w+") as output:
        if (child := os.fork()) == 0:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            os.chdir(directory)
            status = 0
            try:
                execute(words, trial)
            except SystemExit as done:
                status = done.code if isinstance(done.code, int) else int(done.code is not None)
            except BaseException:
                traceback.print_exc()
                status = 1
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return {"status": status, "output": output.read()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(in_a_fork(**json.loads(line))), flush=True)
