"""Measures how well an integer network agrees with the simulation that it was folded from, and whether it may ship.

The simulation is the trained network in evaluation mode. An integer network may ship if it predicts the
simulation's class for at least 99.8 % of the images (or, with few images, for all but one), and if its
accuracy is within 0.1 percentage points of the simulation's (or, with few images, within one image).
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from qresnet_jax.errors import ExportError
from qresnet_jax.models.resnet import ResNet
from qresnet_jax.nn.stream import renormalize, to_stream
from qresnet_jax.pixels import normalize
from qresnet_jax.quantize.fixed_point import mean_pool
from qresnet_jax.ship import reference
from qresnet_jax.ship.fold import blocks
from qresnet_jax.ship.network import IntegerNetwork

SAME_CLASS = 0.998
ACCURACY_DIFFERENCE = 0.001
_BATCH = 256
_DRIFT_IMAGES = 64  # enough for thousands of values per layer


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The agreement of an integer network with its simulation.

    Args:
      images: number of images that it was measured on.
      same_class: fraction of the images for which both predict the same class, 0 to 1.
      accuracy_simulation: accuracy of the simulation, 0 to 1.
      accuracy_integer: accuracy of the integer network, 0 to 1.
      mean_logit_difference: mean absolute difference of the logits, in units of the simulation's logits.
      largest_logit_difference: largest absolute difference of the logits, in the same units.
    """

    images: int
    same_class: float
    accuracy_simulation: float
    accuracy_integer: float
    mean_logit_difference: float
    largest_logit_difference: float

    @property
    def is_sufficient(self) -> bool:
        """Returns whether the integer network may ship."""
        others = round((1 - self.same_class) * self.images)
        moved = round(abs(self.accuracy_integer - self.accuracy_simulation) * self.images)
        most_others = max(1, int((1 - SAME_CLASS) * self.images + 1e-6))
        return others <= most_others and moved <= max(1, int(ACCURACY_DIFFERENCE * self.images + 1e-6))

    def __str__(self) -> str:
        return (
            f"{100 * self.same_class:.2f} % of {self.images:,} images in the class of the simulation; accuracy "
            f"{100 * self.accuracy_integer:.2f} %, simulation {100 * self.accuracy_simulation:.2f} %; logits differ by "
            f"{self.mean_logit_difference:.2g} on average, {self.largest_logit_difference:.2g} at most"
        )


def measure(model: ResNet, network: IntegerNetwork, images: np.ndarray, labels: np.ndarray) -> Agreement:
    """Runs the simulation and the integer network on the same images, and compares them.

    Args:
      model: the trained network that `network` was folded from, in any mode.
      network: the integer network.
      images: uint8 `[N, H, W, C]`, N > 0.
      labels: the right classes, integers `[N]`.

    Raises:
      ValueError: if there are no images, if there are not as many labels as images, or if the images do not
        have the network's shape or are not uint8.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            f"at least one image and as many labels as images are needed, got {len(images)} images, {len(labels)} labels"
        )
    integers = reference.logits(network, images)
    simulated = simulate(model, network, images)
    difference = np.abs(integers * network.logit_scale - simulated)
    ours, theirs = integers.argmax(-1), simulated.argmax(-1)
    return Agreement(
        images=len(images),
        same_class=float(np.mean(ours == theirs)),
        accuracy_simulation=float(np.mean(theirs == labels)),
        accuracy_integer=float(np.mean(ours == labels)),
        mean_logit_difference=float(difference.mean()),
        largest_logit_difference=float(difference.max()),
    )


def simulate(model: ResNet, network: IntegerNetwork, images: np.ndarray) -> np.ndarray:
    """Computes the logits of the simulation.

    Args:
      model: the trained network, in any mode.
      network: the integer network, which holds the pixel means.
      images: uint8 `[N, H, W, C]`, N > 0.

    Returns:
      float32 `[N, classes]`.
    """
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True))
    step = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    logits = []
    for i in range(0, len(images), _BATCH):
        batch = images[i : i + _BATCH]
        # The last batch is padded, so that only one shape is compiled.
        full = np.pad(batch, ((0, min(_BATCH, len(images)) - len(batch)), (0, 0), (0, 0), (0, 0)))
        logits.append(np.asarray(step(state, _normalized(network, full)))[: len(batch)])
    return np.concatenate(logits)


def require(agreement: Agreement, model: ResNet, network: IntegerNetwork, images: np.ndarray) -> None:
    """Refuses an integer network that does not agree well enough with its simulation.

    Args:
      agreement: what `measure` found for `model` and `network`.
      model: the trained network.
      network: the integer network.
      images: some of the images that were measured, uint8 `[N, H, W, C]`. They serve to find the layer that
        differs most.

    Raises:
      ExportError: if the agreement is not sufficient. The message names the layer that drifts most, see
        `drift`.
    """
    if agreement.is_sufficient:
        return
    drifts = drift(model, network, images)
    worst = max(drifts, key=drifts.__getitem__)
    way_out = (
        f"Train it on the grid that ships: config.model.stream_fraction_bits={network.fraction_bits}"
        if model.fraction_bits is None
        else "Fold the checkpoint that was evaluated, with the pixel means of its training"
    )
    raise ExportError(
        f"the integer network falls short of the simulation: {agreement}. It needs {100 * SAME_CLASS:g} % of the images in "
        f"the same class (or all but one) and an accuracy within {100 * ACCURACY_DIFFERENCE:g} percentage points (or one "
        f"image). The layer that drifts most is {worst}, by {100 * drifts[worst]:.2g} % of its output. {way_out}"
    )


def drift(model: ResNet, network: IntegerNetwork, images: np.ndarray) -> dict[str, float]:
    """Returns what each layer adds to the difference: `sum |integer - simulated| / sum |simulated|` of its outputs.

    Each simulated layer reads what the layer before it gives in the *integer* network, so that no layer is
    blamed for earlier ones. The layers are the stem, the residual blocks, and the classifier with the pooling
    before it.

    Args:
      model: the trained network that `network` was folded from, in any mode.
      network: the integer network.
      images: uint8 `[N, H, W, C]`, of which the first 64 are used.

    Returns:
      The drift of each layer by its name, as a fraction of the size of its output.
    """
    images = images[:_DRIFT_IMAGES]
    values = reference.node_values(network, images)
    position = {node.name: i for i, node in enumerate(network.nodes)}
    x, drifts = _normalized(network, images), {}
    for name, layer in _simulated_layers(model):
        unit = network.logit_scale if name == "classifier" else 2.0**-network.fraction_bits
        simulated, integer = np.asarray(layer(x)), values[position[name]] * unit
        size = np.abs(simulated).sum(dtype=np.float64)
        drifts[name] = float(np.abs(integer - simulated).sum(dtype=np.float64) / max(size, unit))
        x = jnp.asarray(integer, jnp.float32)
    return drifts


def _simulated_layers(model: ResNet) -> Iterator[tuple[str, Callable[[jax.Array], jax.Array]]]:
    model = nnx.view(model, use_running_average=True)
    bits = model.fraction_bits

    def stem(model: ResNet, x: jax.Array) -> jax.Array:
        x = to_stream(model.stem, model.stem_norm, x, None, bits)
        x = x if model.stem_norm is None else nnx.relu(x)
        padding = ((1, 1), (1, 1))
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=padding) if model.imagenet_stem else x

    def classifier(model: ResNet, x: jax.Array) -> jax.Array:
        if model.final_norm is not None:
            x = nnx.relu(renormalize(model.final_norm, x, bits))
        return model.classifier(mean_pool(x, bits))

    def compiled(
        function: Callable[[Any, jax.Array], jax.Array], module: nnx.Module
    ) -> Callable[[jax.Array], jax.Array]:
        return lambda x: nnx.jit(function)(module, x)

    yield "stem", compiled(stem, model)
    for name, block in blocks(model):
        yield name, compiled(lambda block, x: block(x), block)
    yield "classifier", compiled(classifier, model)


def _normalized(network: IntegerNetwork, images: np.ndarray) -> jax.Array:
    return normalize(jnp.asarray(images), jnp.asarray(network.mean, jnp.float32))
