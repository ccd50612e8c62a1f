"""Variable types that say what a parameter is.

The optimizer, `fold`, reports and diagnostics select parameters by these types, never by name.
"""

from typing import Any

from flax import nnx

from qresnet_jax.quantize.weights import check_scale


class BinaryKernel(nnx.Param):
    """A convolution kernel, HWIO, of which the network uses the binary weights `s * sign(kernel)`.

    The variable carries what its `s` is a mean over. The layer, the optimizer, `fold` and the diagnostics all
    read that from the variable.

    Args:
      value: float `[kh, kw, in, out]`.
      weight_scale: "layer" for one `s`, "channel" for one `s` per output channel, see `qresnet_jax.binarize`.
      metadata: metadata as of any variable of Flax.

    Raises:
      ValueError: if `weight_scale` is neither "layer" nor "channel".
    """

    weight_scale: str

    def __init__(self, value: Any, *, weight_scale: str = "layer", **metadata: Any) -> None:
        check_scale(weight_scale)
        super().__init__(value, weight_scale=weight_scale, **metadata)


class FloatKernel(nnx.Param):
    """The kernel of the float twin of a binary layer, float `[kh, kw, in, out]`."""


class ClippingLevel(nnx.Param):
    """The clipping level alpha of an activation quantizer, a float32 scalar > 0."""


class NormParam(nnx.Param):
    """The gamma or beta of a batch norm, which weight decay leaves alone."""


class Temperature(nnx.Variable):
    """The sharpness of the `sigmoid` quantizer's gradient, a float32 scalar that the training step sets."""


class Draw(nnx.Variable):
    """The number of a random draw of `Dropout`, a float32 scalar that the training step sets."""
