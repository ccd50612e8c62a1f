"""Variable types that say what a parameter is.

Optimizer routing, folding, reports and diagnostics select parameters by these types, never by name.
"""

from typing import Any

from flax import nnx

from qresnet_jax.quantize.weights import check_scale


class BinaryKernel(nnx.Param):
    """A convolution kernel, HWIO, of which the network uses `s * sign`.

    The variable says what its `s` is the mean of. Its layer, the optimizer, `fold` and the diagnostics all read it there.

    Args:
      value: float `[kh, kw, in, out]`.
      weight_scale: "layer" for one `s`, "channel" for one per output channel, see `qresnet_jax.binarize`.
      metadata: as for any variable of Flax.

    Raises:
      ValueError: unknown `weight_scale`.
    """

    weight_scale: str

    def __init__(self, value: Any, *, weight_scale: str = "layer", **metadata: Any) -> None:
        check_scale(weight_scale)
        super().__init__(value, weight_scale=weight_scale, **metadata)


class ClippingLevel(nnx.Param):
    """The clipping level alpha of an activation quantizer, float32 scalar > 0."""


class NormParam(nnx.Param):
    """Gamma or beta of a batch norm: spared by weight decay."""


class Temperature(nnx.Variable):
    """Sharpness of the `sigmoid` quantizer's gradient, float32 scalar; the training step sets it."""
