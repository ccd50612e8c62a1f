"""Dense layers: convolutions of images of one pixel, or of pixels in a row."""

from typing import Any, Literal

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax.nn.carriers import array_of, with_value
from qresnet_jax.nn.convolutions import BinaryConv, FloatConv, StemConv
from qresnet_jax.nn.recording import recorded


class _OfVectors:
    """The call of all dense layers, in front of the convolution that each of them is."""

    in_features: int

    @recorded
    def __call__(self, x: Any) -> Any:
        """Multiplies vectors `[N, in]`, levels or an array, to `[N, out]` of the kind that the convolution gives.

        Raises:
          ValueError: if `x` has another shape.
        """
        if x.ndim != 2 or x.shape[-1] != self.in_features:
            raise ValueError(
                f"{type(self).__name__} expects [N, {self.in_features}], got shape {x.shape}: qresnet_jax.nn.flatten makes "
                "vectors of images"
            )
        pixels = with_value(x, jnp.reshape(array_of(x), (x.shape[0], 1, 1, x.shape[-1])))
        y = super().__call__(pixels)  # type: ignore[misc]  # of the convolution
        values = array_of(y)
        return with_value(y, values.reshape(values.shape[0], values.shape[-1]))


class BinaryDense(_OfVectors, BinaryConv):
    """A dense layer with the 1-bit weights `binarize(kernel)`, without a bias.

    It is a convolution of one pixel: its kernel is `[1, 1, in, out]`, and it has the same scale, gradients and integers.

    Args:
      in_features: number of inputs.
      out_features: number of outputs.
      scale: "layer" or "channel", see `qresnet_jax.binarize`.
      dtype: dtype of the operands of products, float32 or bfloat16; sums and outputs are float32.
      rngs: source of the `params` key.

    Raises:
      ValueError: if `scale` is neither "layer" nor "channel".

    Examples:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> BinaryDense(64, 10, rngs=nnx.Rngs(0))(jnp.ones((1, 64))).shape
      (1, 10)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        scale: str = "layer",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(in_features, out_features, 1, scale=scale, dtype=dtype, rngs=rngs)


class FloatDense(_OfVectors, FloatConv):
    """The float twin of `BinaryDense`, with the same kernel, but float weights.

    Args:
      in_features: number of inputs.
      out_features: number of outputs.
      dtype: dtype of the operands and of the output.
      rngs: source of the `params` key.
    """

    def __init__(
        self, in_features: int, out_features: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs
    ) -> None:
        super().__init__(in_features, out_features, 1, dtype=dtype, rngs=rngs)


class StemDense(_OfVectors, StemConv):
    """The first layer of a network that reads all pixels at once. It computes in integers if `weight_bits` is set.

    Its weights are rounded like those of `StemConv`. The more pixels an image has, the fewer bits they may have for exact
    sums: 6 for 784 pixels, 4 for 3,072.

    Args:
      in_features: number of pixels times channels, which `flatten` puts in the order height, width, channel.
      out_features: number of outputs.
      weight_bits: as in `StemConv`.
      dtype: as in `StemConv`.
      rngs: source of the `params` key.

    Raises:
      ValueError: if `weight_bits` is less than 2, or if there are so many inputs that not even 2 bits would be exact.

    Examples:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> StemDense(784, 64, rngs=nnx.Rngs(0))(jnp.ones((1, 784))).shape
      (1, 64)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        weight_bits: int | Literal["auto"] | None = "auto",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(in_features, out_features, 1, weight_bits=weight_bits, dtype=dtype, rngs=rngs)
