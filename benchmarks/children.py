"""Reads the answers of child processes that measure in turns."""

import select
import shlex

SECONDS = 1200  # for an answer, which may need a compilation


def answer(child, seconds=SECONDS):
    """Returns the next line of a child that prints one line for each that it is sent; "" if it has ended.

    Raises:
      SystemExit: no line came in time, and the child has been killed. The other children end with this process.
    """
    if not select.select([child.stdout], [], [], seconds)[0]:
        child.kill()
        raise SystemExit(f"{shlex.join(map(str, child.args))} has not answered within {seconds:g} seconds")
    return child.stdout.readline()
