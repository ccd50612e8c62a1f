"""Convolutions as Flax NNX modules: with 1-bit weights, with float weights, and for the pixels of images."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from qresnet_jax import pixels
from qresnet_jax.nn.carriers import Levels, Sums, array_of
from qresnet_jax.nn.recording import recorded
from qresnet_jax.nn.shapes import Padding, conv_form, pair
from qresnet_jax.nn.variables import BinaryKernel, FloatKernel
from qresnet_jax.ops.convolution import binary_conv, exact_conv, float_conv
from qresnet_jax.quantize import exact
from qresnet_jax.quantize.fixed_point import stem_unit
from qresnet_jax.quantize.straight_through import straight_through

RESULT = "convolution"  # the name of the results in blocks, by which a policy chooses what the gradient keeps
_AT_ONCE = 2**16  # normal numbers are drawn in multiples of this, by one program for all smaller kernels
WEIGHT_BITS = 11  # bits of a stem's integer weights: more bits change no predicted class, fewer do


def _conv_init(rngs: nnx.Rngs, shape: tuple[int, ...]) -> jax.Array:
    """Draws from N(0, sqrt(2 / (kh * kw * out))) in float32 (He et al. 2015, eq. 14: fan out).

    The values are those of `jax.random.normal(key, shape)`, which JAX would compile anew for each shape. That takes up to
    a second.
    """
    size = math.prod(shape)
    drawn = jax.random.normal(rngs.params(), (-(-size // _AT_ONCE) * _AT_ONCE,))
    deviation = (2 / (shape[0] * shape[1] * shape[3])) ** 0.5
    return (drawn * deviation)[:size].reshape(shape)


class BinaryConv(nnx.Module):
    """A convolution with the 1-bit weights `binarize(kernel)`, in the layouts NHWC and HWIO, without a bias.

    Args:
      in_features: number of input channels.
      out_features: number of output channels.
      kernel_size: size of the kernel, two numbers along H and W or one for both.
      strides: strides, two numbers along H and W or one for both.
      padding: zeros around the image, fewer than the kernel has pixels: a number for all sides, `((top, bottom), (left,
        right))`, or "VALID" for none. None means `(k - 1) // 2` on both sides, as PyTorch pads.
      groups: parts into which the channels are divided; each part of the output reads only that part of the input. With as
        many groups as input channels, the convolution is depthwise.
      scale: "layer" or "channel", see `qresnet_jax.binarize`.
      dtype: dtype of the operands of products, float32 or bfloat16; sums and outputs are float32.
      rngs: source of the `params` key.

    Raises:
      ValueError: if `scale` is neither "layer" nor "channel", if `kernel_size` or `strides` is not one or
        two numbers, or if padding or groups are not possible.

    Examples:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> conv = BinaryConv(16, 32, (3, 3), strides=(2, 2), rngs=nnx.Rngs(0))
      >>> conv(jnp.ones((1, 8, 8, 16))).shape
      (1, 4, 4, 32)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        *,
        padding: Padding = None,
        groups: int = 1,
        scale: str = "layer",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.kernel_size, self.strides = pair(kernel_size), pair(strides)
        self.form = conv_form(padding, self.kernel_size, groups, (in_features, out_features))
        self.dtype = dtype
        kernel = _conv_init(rngs, (*self.kernel_size, in_features // groups, out_features))
        self.kernel = BinaryKernel(kernel, weight_scale=scale)

    @property
    def scale(self) -> str:
        """Returns "layer" or "channel": what the scale of the weights is a mean over. The kernel carries it."""
        return self.kernel.weight_scale

    @recorded
    def __call__(self, x: Any) -> Any:
        """Convolves with the binary weights.

        Args:
          x: `Levels` `[N, H, W, in]`, or an array with any values.

        Returns:
          `Sums` `[N, H', W', out]`, which are exact: integers times the scale and the step. Of an array, a float32 array.

        Raises:
          ValueError: if `x` has another rank or number of channels.
        """
        self._check(x)
        levels = x if isinstance(x, Levels) else None
        step, max_level = (None, None) if levels is None else (levels.step, levels.max_level)
        result = binary_conv(
            array_of(x), self.kernel[...], step, self.strides, self.scale, self.dtype, max_level, self.form
        )
        result = checkpoint_name(result, RESULT)
        return result if max_level is None else Sums(result, self.acc_max(max_level))

    def acc_max(self, max_level: int) -> int:
        """Returns the largest possible `|acc|` for activation levels up to `max_level`."""
        return max_level * self.kernel[...][..., 0].size

    def _check(self, x: Any) -> None:
        if x.ndim != 4 or x.shape[-1] != self.in_features:
            raise ValueError(f"BinaryConv expects [N, H, W, {self.in_features}], got shape {x.shape}")


class FloatConv(nnx.Module):
    """The float twin of `BinaryConv`, with the same shape, padding and initialisation, but float weights.

    The arguments are those of `BinaryConv`, but there is no `scale`, and `dtype` is also that of the output.

    Raises:
      ValueError: if `kernel_size` or `strides` is not one or two numbers.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        *,
        padding: Padding = None,
        groups: int = 1,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.kernel_size, self.strides, self.dtype = pair(kernel_size), pair(strides), dtype
        self.form = conv_form(padding, self.kernel_size, groups, (in_features, out_features))
        self.kernel = FloatKernel(_conv_init(rngs, (*self.kernel_size, in_features // groups, out_features)))

    @recorded
    def __call__(self, x: Any) -> jax.Array:
        """Convolves `[N, H, W, in]`, an array or `Levels`, to `[N, H', W', out]` of `dtype`."""
        kernel = self.kernel[...].astype(self.dtype)
        return checkpoint_name(
            float_conv(array_of(x).astype(self.dtype), kernel, self.strides, self.form), RESULT
        )


class StemConv(nnx.Module):
    """The first convolution of a network, on normalised pixels. It computes in integers if `weight_bits` is set.

    Normalised pixels are integers of at most `pixels.LARGEST`, divided by `pixels.UNITS` (see
    `qresnet_jax.pixels`). The weights are rounded to `weight_bits` bits with one scale per output channel,
    and gradients pass straight through. With no more than `exact_weight_bits()`, every sum is exact in
    float32.

    Args:
      in_features, out_features, kernel_size, strides, padding: as in `BinaryConv`.
      weight_bits: bits of the integer weights, 2 or more. "auto" means 11, or fewer if sums of 11-bit weights
        would not be exact. None makes it a float convolution.
      dtype: dtype of the operands of the float convolution and of the kernel's gradient, float32 or bfloat16.
        The integer convolution itself is always in float32.
      rngs: source of the `params` key.

    Raises:
      ValueError: if `weight_bits` is less than 2, or if there are so many inputs that not even 2 bits would
        be exact.

    Examples:
      >>> from flax import nnx
      >>> import jax.numpy as jnp
      >>> StemConv(3, 16, 3, rngs=nnx.Rngs(0))(jnp.ones((1, 8, 8, 3))).shape
      (1, 8, 8, 16)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int | tuple[int, int],
        strides: int | tuple[int, int] = (1, 1),
        *,
        padding: Padding = None,
        weight_bits: int | Literal["auto"] | None = "auto",
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        self.in_features, self.out_features = in_features, out_features
        self.kernel_size, self.strides = pair(kernel_size), pair(strides)
        self.form = conv_form(padding, self.kernel_size)
        if weight_bits == "auto":
            weight_bits = self.exact_weight_bits()
        if weight_bits is not None and weight_bits < 2:
            raise ValueError(
                f"{type(self).__name__} needs 2 or more weight_bits, got {weight_bits} for a kernel {self.kernel_size} and "
                f"{in_features} input channels; weight_bits=None makes it a float convolution"
            )
        self.weight_bits, self.dtype = weight_bits, dtype
        self.kernel = nnx.Param(_conv_init(rngs, (*self.kernel_size, in_features, out_features)))

    def exact_weight_bits(self) -> int:
        """Returns the most weight bits, up to 11, for which all sums are exact in float32."""
        return min(WEIGHT_BITS, exact.most_weight_bits(pixels.LARGEST, self._taps()))

    @recorded
    def __call__(self, x: jax.Array) -> Any:
        """Convolves normalised images `[N, H, W, in]` to `Sums` `[N, H', W', out]`; in the float form, to an array of `dtype`."""
        if self.weight_bits is None:
            kernel = self.kernel[...].astype(self.dtype)
            return float_conv(x.astype(self.dtype), kernel, self.strides, self.form)
        kernel, factor = self.integer_kernel()
        scaled = x.astype(jnp.float32) * pixels.UNITS
        integers = straight_through(jnp.clip(jnp.round(scaled), -pixels.LARGEST, pixels.LARGEST), scaled)
        sums = exact_conv(integers, kernel, self.strides, self.dtype, self.form) * (factor / pixels.UNITS)
        return Sums(sums, self.acc_max())

    def integer_kernel(self) -> tuple[jax.Array, jax.Array]:
        """Returns the integer weights and their scale: the rounded kernel is `q * factor`.

        Returns:
          `(q, factor)`: float32 `[kh, kw, in, out]` with integral values, and float32 `[out]`.
        """
        assert self.weight_bits is not None  # a float convolution has no integers
        kernel = self.kernel[...]
        factor = jax.lax.stop_gradient(stem_unit(kernel, self.weight_bits))
        scaled = kernel / factor
        return straight_through(jnp.round(scaled), scaled), factor

    def acc_max(self, max_level: int = pixels.LARGEST) -> int:
        """Returns the largest possible `|acc|`."""
        assert self.weight_bits is not None  # a float convolution has no integers
        return max_level * self._taps() * (2 ** (self.weight_bits - 1) - 1)

    def _taps(self) -> int:
        return self.kernel_size[0] * self.kernel_size[1] * self.in_features
