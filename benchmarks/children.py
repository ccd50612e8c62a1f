"""Times child processes, and reads the answers of those that measure in turns."""

import os
import select
import shlex
import subprocess
import time

SECONDS = 1200  # for an answer or a process, which may need a compilation


def process_seconds(command, cache):
    """Returns how long a process takes from its start to its end, with its caches and its current directory in `cache`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "JAX_COMPILATION_CACHE_DIR")}
    variables = {**kept, "XDG_CACHE_HOME": str(cache)}
    start = time.perf_counter()
    subprocess.run(command, check=True, timeout=SECONDS, env=variables, cwd=cache, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def answer(child, seconds=SECONDS):
    """Returns the next line of a child that prints one line for each that it is sent; "" if it has ended.

    Raises:
      SystemExit: no line came in time, and the child has been killed. The other children end with this process.
    """
    if not select.select([child.stdout], [], [], seconds)[0]:
        child.kill()
        raise SystemExit(f"{shlex.join(map(str, child.args))} has not answered within {seconds:g} seconds")
    return child.stdout.readline()
