"""Measures what quantization does while a network trains, layer by layer, from the training state.

    flips/<layer>              share of the weights whose sign changes in a step, mean over the interval
    held_back/<layer>          share of the weights whose sign differs from that of the latent weight, due to hysteresis
    dead_band/<layer>          share of the latent weights inside the hysteresis loop, |latent| < threshold
    never_flipped/<layer>      share of the weights that still have their first sign
    latent_norm/<layer>        Euclidean norm of the latent weights
    gradient_norm/<layer>      Euclidean norm of the gradient, mean over the interval
    alpha/<layer>              the clipping level
    saturation/<layer>         share of the activations that are clipped at the top
    stream_saturation/<block>  share of the block's output values at the end of the residual stream's range
    occupancy/<layer>/<q>      share of the activations at level q (up to 4 bits)

A share is between 0 and 1. A layer is named by its path in the network, such as `stages.0.1.convs.0`. Flips and
gradients are counted in every step, which costs next to nothing; the rest is computed when metrics are logged. The
training state also records how a few weights walk through the hysteresis loop, step by step (see `start_walk`).
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from qresnet_jax.models.resnet import Block
from qresnet_jax.nn.activations import FloatActivation, Quantizer
from qresnet_jax.nn.carriers import Levels, Stream, array_of
from qresnet_jax.nn.recording import dotted
from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel
from qresnet_jax.quantize.fixed_point import STREAM_MAX
from qresnet_jax.quantize.weights import magnitude, sign
from qresnet_jax.train.network import Network, merge, replace_module

MOST_LEVELS = 16  # with more, the occupancy of levels is not measured
WALK_STEPS = 2000  # the first steps of a run
WALK_WEIGHTS = 32

Diagnose = Callable[[nnx.State, nnx.State, optax.OptState, jax.Array], dict[str, jax.Array]]

_Kind = TypeVar("_Kind", bound=nnx.Variable)


def variables_by_layer(tree: Any, kind: type[_Kind]) -> dict[str, _Kind]:
    """Returns the variables of one type in a state, by layer."""
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda v: isinstance(v, nnx.Variable))
    found = {}
    for path, variable in leaves:
        if isinstance(variable, kind) and jax.tree.leaves(variable):  # optax.partition leaves empty ones
            found[".".join(str(key.key) for key in path[:-1])] = variable
    return found


def by_layer(tree: Any, kind: type[nnx.Variable]) -> dict[str, jax.Array]:
    """Returns the arrays of the variables of one type in a state, by layer."""
    return {name: jax.tree.leaves(v)[0] for name, v in variables_by_layer(tree, kind).items()}


def latent_magnitudes(opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Returns the scale `s = mean |latent|` of each binary layer: float32 `[]`, or `[out]` if it is per channel."""
    latents = variables_by_layer(optax.tree.get(opt_state, "latent"), BinaryKernel)
    return {name: magnitude(latent[...], latent.weight_scale) for name, latent in latents.items()}


def step_diagnostics(grads: nnx.State, opt_state: optax.OptState) -> dict[str, jax.Array]:
    """Measures one step; its results are summed over the interval.

    Args:
      grads: the gradients of all parameters. Before the first step, any tree with their structure will do.
      opt_state: the optimizer's state after the update; it holds a `HysteresisState`.

    Returns:
      `flips` and `gradient_norm`, float32 `[layers]` each, in the order of the binary layers; `named` splits them. They
      are vectors because an accelerator adds a vector as fast as a number. {} for a network without binary kernels.
    """
    kernels = by_layer(grads, BinaryKernel)
    if not kernels:
        return {}
    flips = by_layer(optax.tree.get(opt_state, "flips"), BinaryKernel)
    sizes = jnp.array([kernel.size for kernel in kernels.values()], jnp.float32)
    squares = jnp.stack([jnp.sum(jnp.square(kernel)) for kernel in kernels.values()])
    return {
        "flips": jnp.stack([flips[name] for name in kernels]).astype(jnp.float32) / sizes,
        "gradient_norm": jnp.sqrt(squares),
    }


def named(values: dict[str, jax.Array], params: nnx.State) -> dict[str, jax.Array]:
    """Splits the vectors of `step_diagnostics` into one number per layer: `flips/<layer>`, `gradient_norm/<layer>`."""
    layers = by_layer(params, BinaryKernel)
    return {f"{kind}/{name}": x for kind, v in values.items() for name, x in zip(layers, v, strict=True)}


def weight_diagnostics(opt_state: optax.OptState, threshold: float, relative: bool) -> dict[str, jax.Array]:
    """Measures the latent weights.

    Args:
      opt_state: the optimizer's state; it holds a `HysteresisState`.
      threshold, relative: of the hysteresis loop, see `hysteresis_binarize`.

    Returns:
      `held_back/<layer>`, `dead_band/<layer>`, `never_flipped/<layer>` and `latent_norm/<layer>`, float32 `[]` each.
    """
    latents = by_layer(optax.tree.get(opt_state, "latent"), BinaryKernel)
    signs = by_layer(optax.tree.get(opt_state, "sign"), BinaryKernel)
    ever = by_layer(optax.tree.get(opt_state, "ever_flipped"), BinaryKernel)
    scales, values = latent_magnitudes(opt_state), {}
    for name, latent in latents.items():
        half_width = threshold * scales[name] if relative else threshold
        values[f"held_back/{name}"] = jnp.mean(sign(latent) != signs[name])
        values[f"dead_band/{name}"] = jnp.mean(jnp.abs(latent) < half_width)
        values[f"never_flipped/{name}"] = 1 - jnp.mean(ever[name].astype(jnp.float32))
        values[f"latent_norm/{name}"] = jnp.linalg.norm(latent)
    return values


def walked_layer(params: nnx.State) -> str:
    """Returns the layer whose weights the walk follows: the middle one of the binary layers.

    Args:
      params: the parameters, or their latent weights.
    """
    names = list(by_layer(params, BinaryKernel))
    return names[len(names) // 2]


def start_walk(params: nnx.State) -> dict[str, jax.Array]:
    """Returns an empty record of `WALK_WEIGHTS` evenly spaced weights of one layer, for the first `WALK_STEPS` steps.

    Returns:
      `latent` float32, `sign` int8 (0 for a step that is not reached yet) and `scale` float32 (s, by which relative
      thresholds are multiplied), each `[steps, weights]`; {} for a network without binary kernels.
    """
    kernels = by_layer(params, BinaryKernel)
    if not kernels:
        return {}
    shape = (WALK_STEPS, min(WALK_WEIGHTS, kernels[walked_layer(params)].size))
    return {
        "latent": jnp.zeros(shape, jnp.float32),
        "sign": jnp.zeros(shape, jnp.int8),
        "scale": jnp.zeros(shape, jnp.float32),
    }


def extend_walk(
    walk: dict[str, jax.Array], step: jax.Array, opt_state: optax.OptState
) -> dict[str, jax.Array]:
    """Returns the record with the row of one step filled in; rows past its end are dropped.

    Args:
      walk: the record, from `start_walk`.
      step: int32, the index of the update, counted from the first one with a quantized network.
      opt_state: the optimizer's state after the update.
    """
    if not walk:
        return walk
    latents = by_layer(optax.tree.get(opt_state, "latent"), BinaryKernel)
    signs = by_layer(optax.tree.get(opt_state, "sign"), BinaryKernel)
    name = walked_layer(optax.tree.get(opt_state, "latent"))
    scales = jnp.broadcast_to(latent_magnitudes(opt_state)[name], latents[name].shape)
    row = {"latent": latents[name], "sign": signs[name], "scale": scales}
    return {key: walk[key].at[step].set(_walked(value), mode="drop") for key, value in row.items()}


def _walked(kernel: jax.Array) -> jax.Array:
    """Returns evenly spaced elements of a kernel, which differ in tap, input channel and output channel."""
    return kernel.reshape(-1)[
        jnp.linspace(0, kernel.size - 1, min(WALK_WEIGHTS, kernel.size), dtype=jnp.int32)
    ]


class Probe(nnx.Module):
    """Takes the place of an activation quantizer, and measures what passes through it."""

    def __init__(self, act: Quantizer | FloatActivation) -> None:
        self.act = act
        self.measured: dict[str, jax.Array] = nnx.data({})

    def __call__(self, x: Any) -> Any:
        y = self.act(x)
        if isinstance(y, Levels):
            self.measured["saturation"] = jnp.mean(array_of(x) >= y.step * y.max_level)
            if y.max_level < MOST_LEVELS:
                levels = jnp.round(y.value.astype(jnp.float32) / y.step)
                for q in range(y.max_level + 1):
                    self.measured[f"occupancy/{q}"] = jnp.mean(levels == q)
        return y


class StreamProbe(nnx.Module):
    """Takes the place of a block, and measures how much of its output lies at the end of the stream's range.

    Both ends of the range count. In a block that ends with ReLU, values at the lower end have become 0 before they are
    measured; that they saturated does no harm.
    """

    def __init__(self, block: Block) -> None:
        self.block = block
        self.measured: dict[str, jax.Array] = nnx.data({})

    def __call__(self, stream: Stream) -> Stream:
        out = self.block(stream)
        assert isinstance(out, Stream)  # a float stream has no limits
        end = STREAM_MAX * 2.0**-out.fraction_bits
        self.measured["stream_saturation"] = jnp.mean(jnp.abs(out.value) >= end)
        return out


def activation_diagnostics(model: nnx.Module, images: jax.Array) -> dict[str, jax.Array]:
    """Measures the activations in one forward pass. The model is changed, and cannot be used afterwards.

    Args:
      model: a network, in the mode (training or evaluation) to measure it in.
      images: normalised images, float `[N, H, W, C]`.

    Returns:
      `saturation/<layer>`, `stream_saturation/<block>`, `occupancy/<layer>/<q>` and `alpha/<layer>`, float32 `[]` each.
    """
    alphas = by_layer(nnx.state(model, ClippingLevel), ClippingLevel)
    probes: dict[str, Probe | StreamProbe] = {}
    # The inner ones first: an activation inside a block is replaced before the block.
    for path, module in sorted(nnx.iter_modules(model), key=lambda found: -len(found[0])):
        if isinstance(module, Quantizer | FloatActivation):
            probe: Probe | StreamProbe = Probe(module)
        elif isinstance(module, Block) and module.fraction_bits is not None:
            probe = StreamProbe(module)
        else:
            continue
        probes[dotted(path)] = probe
        replace_module(model, path, probe)
    cast(Callable[[jax.Array], Any], model)(images)
    values = {f"alpha/{name}": alpha for name, alpha in alphas.items()}
    for name, probe in probes.items():
        for measure, value in probe.measured.items():
            kind, _, level = measure.partition("/")
            values["/".join(filter(None, (kind, name, level)))] = value
    return values


def make_diagnose(network: Network, threshold: float, relative: bool) -> Diagnose:
    """Builds the compiled function that measures a training state.

    Args:
      network: in evaluation mode, in which the activations are nearly those of the integer network.
      threshold, relative: of the hysteresis loop, see `hysteresis_binarize`.

    Returns:
      `(params, model_state, opt_state, images) -> {metric: float32 []}`, with the metrics of `activation_diagnostics`
      and `weight_diagnostics`; images are normalised, float `[N, H, W, C]`.
    """

    def diagnose(
        params: nnx.State, model_state: nnx.State, opt_state: optax.OptState, images: jax.Array
    ) -> dict[str, jax.Array]:
        model = merge(network.graphdef, *network.variables(params, model_state))
        values = activation_diagnostics(model, images)
        if by_layer(params, BinaryKernel):
            values |= weight_diagnostics(opt_state, threshold, relative)
        return values

    return jax.jit(diagnose)
