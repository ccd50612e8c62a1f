"""Sums and means over the devices of a mapped axis, also of several processes."""

import functools
from typing import TypeVar

import jax

_Tree = TypeVar("_Tree")


def sum_over(tree: _Tree, axis_name: str) -> _Tree:
    """Returns the sum of each array of a tree over the devices of an axis.

    Inside a process, XLA on a CPU adds the devices' arrays in their order. Gloo, which adds between processes, takes
    another order for each part of an array. The last bits would then depend on the number of processes; and in a low-bit
    network, they decide which weights change their signs. So here the arrays are fetched from all devices and added in
    order. This costs more communication, by a factor of half the number of devices; a GPU or a TPU adds by itself, as
    there the order depends on the hardware anyway.
    """
    if jax.process_count() == 1 or jax.default_backend() != "cpu":
        return jax.lax.psum(tree, axis_name)

    def one(x: jax.Array) -> jax.Array:
        return functools.reduce(jax.lax.add, jax.lax.all_gather(x, axis_name))

    # Without the barrier the additions might be compiled together with what follows, and rounded differently.
    return jax.lax.optimization_barrier(jax.tree.map(one, tree))


def mean_over(tree: _Tree, axis_name: str) -> _Tree:
    """Returns the mean of each array of a tree over the devices of an axis, see `sum_over`."""
    number = jax.lax.axis_size(axis_name)
    return jax.tree.map(lambda x: x / number, sum_over(tree, axis_name))
