"""Several processes that train one network: they start, agree, wait for each other, and end together.

JAX connects them (`jax.distributed`): process 0 runs its coordination service, which has a store of keys and values and
named barriers, and notices when a process gives no more signs of life.
"""

from qresnet_jax.train.processes.ending import ending_together, telling_others
from qresnet_jax.train.processes.group import ALONE, ProcessError, Processes
from qresnet_jax.train.processes.joining import join

__all__ = ["ALONE", "ProcessError", "Processes", "ending_together", "join", "telling_others"]
