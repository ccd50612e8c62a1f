"""The first epochs of a run in float: a twin of the network, with float weights and activations, trains its parameters.

In these epochs the params hold the latent weights themselves, and the clipping levels wait. The optimizer and its state
are those of the quantized epochs, so one training state, and one checkpoint, serves both. `FloatTwin.quantize` is what
happens between them: the weights become binary, and each clipping level fits the activations that the twin has.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from ml_collections import ConfigDict

from qresnet_jax.models.networks import create_model
from qresnet_jax.nn.activations import ClippedQuantizer
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel
from qresnet_jax.quantize.weights import magnitude, sign
from qresnet_jax.train.network import Network, merge, overlay, replace_module
from qresnet_jax.train.step import AXIS, TrainState

CANDIDATES = 100  # clipping levels, evenly spaced up to the largest activation


def float_model(model: ConfigDict) -> ConfigDict:
    """Returns the `model` part of the config of the float twin."""
    twin = model.copy_and_resolve_references()
    twin.weight_bits, twin.activation = 32, "none"
    return twin


class FloatTwin:
    """The float twin of a network: how it is built, and how it reads the state of that network.

    Args:
      config: the whole config of the run.
      model: the network itself.

    Attributes:
      in_training, in_evaluation: the twin in each mode.
    """

    def __init__(self, config: ConfigDict, model: nnx.Module) -> None:
        twin = create_model(float_model(config.model), rngs=nnx.Rngs(0), dtype=config.dtype)
        in_evaluation = nnx.graphdef(nnx.view(twin, use_running_average=True))
        if config.model.sync_bn:
            twin.set_attributes(BatchNorm, axis_name=AXIS)
        in_training, params, *others = nnx.split(twin, nnx.Param, ...)
        self._like = params, others[0]
        self._quantized = nnx.graphdef(model)
        self.in_training = Network(in_training, self.variables, holds_latents=True)
        self.in_evaluation = Network(in_evaluation, self.variables, holds_latents=True)

    def variables(self, params: nnx.State, model_state: nnx.State) -> tuple[nnx.State, nnx.State]:
        """Returns the twin's parameters and other variables, from those of the network."""
        return overlay(self._like[0], params), overlay(self._like[1], model_state)

    def quantize(self, state: TrainState, images: jax.Array) -> TrainState:
        """Returns the state from which the quantized epochs start.

        The latent weights and the momentum stay. Each kernel becomes `s * sign` of its latent weights, also inside the
        hysteresis loop. Each clipping level becomes the one of `CANDIDATES` with the least mean squared error of rounding
        the twin's activations at that place.

        Args:
          state: after the last float epoch.
          images: normalised images, float `[N, H, W, C]`, for the clipping levels.
        """
        levels = jax.jit(self._clipping_levels)(state.params, state.model_state, images)

        def binary(variable: nnx.Variable) -> nnx.Variable:
            if not isinstance(variable, BinaryKernel):
                return variable
            latent = variable[...]
            return variable.replace(magnitude(latent, variable.weight_scale) * sign(latent))

        params = jax.tree.map(
            binary, overlay(state.params, levels), is_leaf=lambda x: isinstance(x, nnx.Variable)
        )
        signs = jax.tree.map(lambda w: sign(w).astype(jnp.int8), optax.tree.get(state.opt_state, "latent"))
        return state._replace(params=params, opt_state=optax.tree.set(state.opt_state, sign=signs))

    def _clipping_levels(self, params: nnx.State, model_state: nnx.State, images: jax.Array) -> nnx.State:
        twin = merge(self.in_evaluation.graphdef, *self.variables(params, model_state))
        model = merge(self._quantized, params, model_state)
        for path, act in nnx.iter_modules(model):
            if isinstance(act, ClippedQuantizer):
                replace_module(twin, path, _LevelChooser(act))
        twin(images)
        return nnx.state(model, nnx.Param)


class _LevelChooser(nnx.Module):
    """Takes the place of an activation in the twin, and sets the clipping level of the network's quantizer there."""

    def __init__(self, act: ClippedQuantizer) -> None:
        self.act = act

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns `x`, as a float activation does."""
        y = jnp.maximum(x.astype(jnp.float32), 0)
        graphdef, level, *rest = nnx.split(self.act, ClippingLevel, ...)
        candidates = jnp.maximum(jnp.max(y), 1e-3) * jnp.arange(1, CANDIDATES + 1) / CANDIDATES

        def error(alpha: jax.Array) -> jax.Array:
            quantize = nnx.merge(graphdef, jax.tree.map(lambda _: alpha, level), *rest)
            return jnp.mean(jnp.square(quantize(y).value - y))

        self.act.alpha[...] = candidates[jnp.argmin(jax.lax.map(error, candidates))]
        return x
