"""How well an integer network agrees with the simulation it was folded from, and whether that is enough to ship it.

Shipped is what puts at least 99.8 % of the images into the simulation's classes, or all but one where that is fewer,
with an accuracy within 0.1 point, or one image.
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
_DRIFT_IMAGES = 64  # thousands of values per layer


@dataclasses.dataclass(frozen=True)
class Agreement:
    """Measured on `images` images; fractions are of them."""

    images: int
    same_class: float
    accuracy_simulation: float
    accuracy_integer: float
    mean_logit_difference: float
    largest_logit_difference: float

    @property
    def is_sufficient(self) -> bool:
        """Whether the integer network may ship."""
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
    """Runs both on the same images.

    Args:
      model: what `network` was folded from, in any mode.
      images: uint8 `[N, H, W, C]`, N > 0.
      labels: integers `[N]`.

    Raises:
      ValueError: no images, or images that the network refuses.
    """
    if len(images) == 0 or len(images) != len(labels):
        raise ValueError(
            f"as many labels as images are needed, got {len(images)} images, {len(labels)} labels"
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
    """Logits of the simulation, float32 `[N, classes]`, of uint8 images `[N, H, W, C]`; `network` gives the pixel means."""
    graphdef, state = nnx.split(nnx.view(model, use_running_average=True))
    step = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))
    logits = []
    for i in range(0, len(images), _BATCH):
        batch = images[i : i + _BATCH]
        # The last batch is filled up, so that there is one shape to compile.
        full = np.pad(batch, ((0, min(_BATCH, len(images)) - len(batch)), (0, 0), (0, 0), (0, 0)))
        logits.append(np.asarray(step(state, _normalized(network, full)))[: len(batch)])
    return np.concatenate(logits)


def require(agreement: Agreement, model: ResNet, network: IntegerNetwork, images: np.ndarray) -> None:
    """Refuses a network that may not ship.

    Args:
      agreement: of `model` and `network`, as measured.
      images: some of those it was measured on, to find the layer that is to blame.

    Raises:
      ExportError: the agreement falls short; names the layer that drifts most.
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
        f"the integer network falls short of the simulation: {agreement}. Needed are {100 * SAME_CLASS:g} % in the same "
        f"class (or all images but one) and an accuracy within {100 * ACCURACY_DIFFERENCE:g} point (or one image). The "
        f"layer that drifts most is {worst}, by {100 * drifts[worst]:.2g} % of its output. {way_out}"
    )


def drift(model: ResNet, network: IntegerNetwork, images: np.ndarray) -> dict[str, float]:
    """What each layer adds to the difference: `sum |integer - simulated| / sum |simulated|` of its outputs.

    Each is given the *integer* network's input, so that no layer answers for the ones before it. Layers are the stem,
    the residual blocks, and the classifier with what stands before it.

    Args:
      model: what `network` was folded from, in any mode.
      images: uint8 `[N, H, W, C]`; the first 64 are looked at.
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
