"""A network as training sees it: its structure, and how it reads its variables from a training state."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
from flax import nnx

Model = TypeVar("Model", bound=nnx.Module)
Tree = TypeVar("Tree")


class Network(NamedTuple):
    """A network, in training or in evaluation mode, and how it reads the variables in a training state."""

    graphdef: nnx.GraphDef[Any]
    # (params, model_state) of the state -> those of this network
    variables: Callable[[nnx.State, nnx.State], tuple[nnx.State, nnx.State]] = lambda *state: state
    # Whether it computes with the latent weights, which the params then hold instead of the binary ones.
    holds_latents: bool = False


def merge(graphdef: nnx.GraphDef[Model], params: nnx.State, model_state: nnx.State) -> Model:
    """Builds the model of a state. It is a copy, so that it may change inside a JAX transformation."""
    return nnx.merge(graphdef, params, model_state, copy=True)


def replace_module(model: nnx.Module, path: Sequence[Any], module: nnx.Module) -> None:
    """Puts a module in the place of the one at `path`, as `nnx.iter_modules` gives it."""
    parent: Any = model
    for key in path[:-1]:
        parent = parent[key] if isinstance(key, int) else getattr(parent, key)
    if isinstance(path[-1], int):
        parent[path[-1]] = module
    else:
        setattr(parent, path[-1], module)


def overlay(tree: Tree, *others: Any) -> Tree:
    """Returns a tree whose leaves are replaced by those that other trees have at the same paths."""
    found = {
        jax.tree_util.keystr(path): leaf
        for other in others
        for path, leaf in jax.tree_util.tree_leaves_with_path(other)
    }
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: found.get(jax.tree_util.keystr(path), leaf), tree
    )
