"""`python -m qresnet_jax.sweep` is `qresnet sweep`."""

import sys

from qresnet_jax.__main__ import run

if __name__ == "__main__":
    sys.argv.insert(1, "sweep")
    run()
