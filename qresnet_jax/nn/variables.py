"""Variable types that say what a parameter is.

Optimizer routing, folding, reports and diagnostics select parameters by these types, never by name.
"""

from flax import nnx


class BinaryKernel(nnx.Param):
    """A convolution kernel, HWIO, of which the network uses `s * sign`."""


class ClippingLevel(nnx.Param):
    """The clipping level alpha of an activation quantizer, float32 scalar > 0."""


class NormParam(nnx.Param):
    """Gamma or beta of a batch norm: spared by weight decay."""


class Temperature(nnx.Variable):
    """Sharpness of the `sigmoid` quantizer's gradient, float32 scalar; the training step sets it."""
