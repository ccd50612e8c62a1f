"""Flax NNX modules of low-bit networks, and the variable types that say what a parameter is.

Optimizer routing, folding, reports and diagnostics select parameters by these types, never by name.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from qresnet_jax import fixed_point, quantizers
from qresnet_jax.architecture import max_level
from qresnet_jax.batch_norm import normalize_batch
from qresnet_jax.convolution import accumulate, binary_conv, exact_conv
from qresnet_jax.plain_convolution import plain_conv


class BinaryKernel(nnx.Param):
    """A convolution kernel, HWIO, of which the network uses `s * sign`."""


class ClippingLevel(nnx.Param):
    """The clipping level alpha of an activation quantizer, float32 scalar > 0."""


class NormParam(nnx.Param):
    """Gamma or beta of a batch norm: spared by weight decay."""


class Temperature(nnx.Variable):
    """Sharpness of the `sigmoid` quantizer's gradient, float32 scalar; the training step sets it."""


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2:
        raise ValueError(
            f"kernel_size and strides are two numbers, along H and W, or one for both; got {value}"
        )
    return pair


def _conv_init(rngs: nnx.Rngs, shape: tuple[int, ...]) -> jax.Array:
    """N(0, sqrt(2 / (kh * kw * out))), float32 (He et al. 2015, eq. 14: fan out)."""
    return jax.random.normal(rngs.params(), shape) * (2 / (shape[0] * shape[1] * shape[3])) ** 0.5


class BinaryConv(nnx.Module):
    """A convolution with 1-bit weights: convolves with `binarize(kernel)`, NHWC and HWIO, no bias.

    Pads `(k - 1) // 2` zeros on both sides, as PyTorch does.

    Args:
      in_features: input channels.
      out_features: output channels.
      kernel_size: along H and W.
      strides: along H and W.
      scale: "layer" or "channel", see `binarize`.
      dtype: of the operands of products, float32 or bfloat16; sums and outputs are float32.
      rngs: gives the `params` key.

    Example:
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
        scale: str = "layer",
        dtype=jnp.float32,
        rngs: nnx.Rngs,
    ):
        if scale not in quantizers.SCALES:
            raise ValueError(f"scale must be one of {quantizers.SCALES}, got {scale!r}")
        self.in_features, self.out_features = in_features, out_features
        self.kernel_size, self.strides = _pair(kernel_size), _pair(strides)
        self.scale, self.dtype = scale, dtype
        self.kernel = BinaryKernel(_conv_init(rngs, (*self.kernel_size, in_features, out_features)))

    def __call__(
        self, x: jax.Array, step: jax.Array | None = None, max_level: int | None = None
    ) -> jax.Array:
        """Convolves.

        Args:
          x: `[N, H, W, in_features]`.
          step: where x consists of multiples of it (a quantizer's `step`), the sums are taken over integers, hence
            exact; None convolves any x.
          max_level: the largest multiple, where known: small integers are faster. Without a step it has no effect.

        Returns:
          float32 `[N, H', W', out_features]`.
        """
        self._check(x)
        return binary_conv(x, self.kernel[...], step, self.strides, self.scale, self.dtype, max_level)

    def accumulate(
        self, x: jax.Array, step: jax.Array, max_level: int | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The integers behind `__call__`: `(acc, factor)` with output `acc * factor`; no gradient to the kernel."""
        self._check(x)
        return accumulate(x, self.kernel[...], step, self.strides, self.scale, self.dtype, max_level)

    def acc_max(self, max_level: int) -> int:
        """The largest possible `|acc|` for activation levels up to `max_level`."""
        return max_level * self.kernel_size[0] * self.kernel_size[1] * self.in_features

    def _check(self, x):
        if x.ndim != 4 or x.shape[-1] != self.in_features:
            raise ValueError(f"BinaryConv expects [N, H, W, {self.in_features}], got shape {x.shape}")


class FloatConv(nnx.Module):
    """The float twin of `BinaryConv`: same shape, padding and initialisation, kernel of plain `nnx.Param`."""

    def __init__(self, in_features, out_features, kernel_size, strides=(1, 1), *, dtype=jnp.float32, rngs):
        self.in_features, self.out_features = in_features, out_features
        self.kernel_size, self.strides, self.dtype = _pair(kernel_size), _pair(strides), dtype
        self.kernel = nnx.Param(_conv_init(rngs, (*self.kernel_size, in_features, out_features)))

    def __call__(self, x: jax.Array, step=None, max_level=None) -> jax.Array:
        """Convolves `[N, H, W, in]` to `[N, H', W', out]` of `dtype`; the binary twin's other arguments have no use here."""
        return plain_conv(
            x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.strides, out_dtype=self.dtype
        )


class StemConv(nnx.Module):
    """The first convolution, on pixels, in integers where `weight_bits` is set.

    Normalised pixels are `(pixel - mean) / 64` with half-integer means, so `x * 128` is an integer of at most 510. The
    weights are rounded to `weight_bits` with one scale per output channel, gradients straight through; with
    `weight_bits <= architecture.max_stem_weight_bits` every sum stays below 2**24, exact in float32.

    Args:
      in_features, out_features, kernel_size, strides: as in `BinaryConv`.
      weight_bits: of the integer weights; None for a float convolution.
      dtype: of the float convolution's operands, and of the kernel gradient's; the integer one itself needs float32.
    """

    def __init__(self, in_features, out_features, kernel_size, strides=(1, 1), *, weight_bits, dtype, rngs):
        self.in_features, self.out_features = in_features, out_features
        self.kernel_size, self.strides = _pair(kernel_size), _pair(strides)
        self.weight_bits, self.dtype = weight_bits, dtype
        self.kernel = nnx.Param(_conv_init(rngs, (*self.kernel_size, in_features, out_features)))

    def __call__(self, x: jax.Array, step: None = None, max_level: None = None) -> jax.Array:
        """Convolves normalised images `[N, H, W, in]` to `[N, H', W', out]`."""
        if self.weight_bits is None:
            kernel = self.kernel[...].astype(self.dtype)
            return plain_conv(x.astype(self.dtype), kernel, self.strides, out_dtype=self.dtype)
        acc, factor = self.accumulate(x)
        return acc * factor

    def integer_kernel(self) -> tuple[jax.Array, jax.Array]:
        """`(q, factor)` with kernel `q * factor`: integral float32 `[kh, kw, in, out]`, and float32 `[out]`."""
        kernel = self.kernel[...]
        largest = 2.0 ** (self.weight_bits - 1) - 1
        size = jnp.maximum(jnp.max(jnp.abs(kernel), axis=(0, 1, 2)), 1e-12)
        factor = jax.lax.stop_gradient(size / largest)
        scaled = kernel / factor
        return quantizers.straight_through(jnp.round(scaled), scaled), factor

    def accumulate(
        self, x: jax.Array, step: None = None, max_level: None = None
    ) -> tuple[jax.Array, jax.Array]:
        """`(acc, factor)` with output `acc * factor`: acc integral float32, factor float32 `[out]`."""
        kernel, factor = self.integer_kernel()
        scaled = x.astype(jnp.float32) * PIXEL_UNITS
        pixels = quantizers.straight_through(jnp.clip(jnp.round(scaled), -510, 510), scaled)
        return exact_conv(pixels, kernel, self.strides, self.dtype), factor / PIXEL_UNITS

    def acc_max(self, max_level: int = 510) -> int:
        """The largest possible `|acc|`."""
        taps = self.kernel_size[0] * self.kernel_size[1] * self.in_features
        return max_level * taps * (2 ** (self.weight_bits - 1) - 1)


PIXEL_UNITS = 128  # normalised pixels are multiples of 1/128: (2 * pixel - 2 * mean) / 128


class BatchNorm(nnx.BatchNorm):
    """Batch norm with momentum 0.9 and epsilon 1e-5, statistics in float32 (Ioffe and Szegedy 2015)."""

    def __init__(self, num_features: int, *, dtype=jnp.float32, rngs: nnx.Rngs):
        super().__init__(num_features, momentum=0.9, epsilon=1e-5, dtype=dtype, rngs=rngs)
        self.scale = NormParam(self.scale[...])
        self.bias = NormParam(self.bias[...])

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `[N, H, W, C]`; in training mode by the batch, whose statistics enter the running ones."""
        if self.use_running_average:
            return super().__call__(x)
        y, mean, var = normalize_batch(x, self.scale[...], self.bias[...], self.epsilon, self.axis_name)
        self.mean[...] = self.momentum * self.mean[...] + (1 - self.momentum) * mean
        self.var[...] = self.momentum * self.var[...] + (1 - self.momentum) * var
        return y.astype(self.dtype)

    def affine(self) -> tuple[jax.Array, jax.Array]:
        """`(multiplier, offset)`, float32 `[C]`, of evaluation mode: `x * multiplier + offset`."""
        multiplier = self.scale[...] * jax.lax.rsqrt(self.var[...] + self.epsilon)
        return multiplier, self.bias[...] - self.mean[...] * multiplier


class Classifier(nnx.Linear):
    """The last layer; integer where `fraction_bits` is set.

    Its inputs are then on the residual stream's grid, its weights are rounded to as many bits (at most 11) as keep
    every sum below 2**31, its bias to the unit of the sums; the gradient passes straight through. One scale for the
    whole layer, so that the integers compare like logits.
    """

    def __init__(self, in_features: int, out_features: int, *, fraction_bits: int | None, rngs: nnx.Rngs):
        super().__init__(in_features, out_features, rngs=rngs)
        self.fraction_bits = fraction_bits
        self.weight_bits = min(11, 32 - 15 - (in_features - 1).bit_length())

    def __call__(self, x: jax.Array) -> jax.Array:
        """Logits, float32 `[N, out]`, of `[N, in]`."""
        logits = super().__call__(x.astype(jnp.float32))
        if self.fraction_bits is None:
            return logits
        kernel, bias, unit = self.integer_weights()
        pixels = (x * 2.0**self.fraction_bits).astype(jnp.int32)
        acc = jnp.matmul(pixels, kernel, preferred_element_type=jnp.int32) + bias
        return quantizers.straight_through(acc.astype(jnp.float32) * unit, logits)

    def integer_weights(self) -> tuple[jax.Array, jax.Array, jax.Array]:
        """`(kernel int32 [in, out], bias int32 [out], unit float32 [])`: logits are `unit * (x_int @ kernel + bias)`."""
        kernel, bias = self.kernel[...], self.bias[...]
        largest = 2.0 ** (self.weight_bits - 1) - 1
        factor = jnp.maximum(jnp.max(jnp.abs(kernel)), 1e-12) / largest
        unit = factor * 2.0**-self.fraction_bits
        # What the largest sum leaves of int32; at most 1 % less than that, for float32's rounding.
        room = 0.99 * (2.0**31 - self.in_features * fixed_point.STREAM_MAX * largest)
        bias = jnp.clip(jnp.round(bias / unit), -room, room)
        return jnp.round(kernel / factor).astype(jnp.int32), bias.astype(jnp.int32), unit


class _Quantizer(nnx.Module):
    """An activation quantizer: `__call__` gives multiples of `step`, `max_level * step` at the most."""

    def __init__(self, bits: int):
        quantizers.check_bits(bits)
        self.bits = bits

    @property
    def max_level(self) -> int:
        """The largest integer level."""
        return max_level("uniform", self.bits)

    @property
    def step(self) -> jax.Array | None:
        """The distance of neighbouring levels, float32 scalar; None for a float activation."""
        return jnp.float32(1)


class _Clipped(_Quantizer):
    """A quantizer with a trainable clipping level, initialised to `n = 2**bits - 1`."""

    def __init__(self, bits: int):
        super().__init__(bits)
        self.alpha = ClippingLevel(jnp.float32(2**bits - 1))

    @property
    def clipping_level(self) -> jax.Array:
        # The optimizer keeps alpha above the minimum; this holds for any other optimizer too, and lets alpha return.
        alpha = self.alpha[...]
        return quantizers.straight_through(jnp.maximum(alpha, quantizers.MIN_CLIPPING_LEVEL), alpha)

    @property
    def step(self) -> jax.Array:
        return jax.lax.stop_gradient(self.clipping_level) / self.max_level


class PACT(_Clipped):
    """Parameterised clipping activation: `pact(x, alpha, bits)` with one trainable alpha (Choi et al. 2018).

    Args:
      bits: 1 to 8.

    Example:
      >>> import jax.numpy as jnp
      >>> PACT(2)(jnp.array([-1.0, 0.4, 1.6, 9.0])).tolist()
      [0.0, 0.0, 2.0, 3.0]
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        return quantizers.pact(x, self.clipping_level, self.bits)


class LSQ(_Clipped):
    """Uniform levels whose clipping level is trained as a learned step size (Esser et al. 2020)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return quantizers.lsq(x, self.clipping_level, self.bits)


class PowerOfTwo(_Clipped):
    """Levels 0 and alpha times powers of two; bits 1 to 4."""

    def __init__(self, bits: int):
        if bits > 4:
            raise ValueError(
                f"power_of_two activations have 1 to 4 bits, got {bits}: 2**(2**bits - 2) must stay exact"
            )
        super().__init__(bits)

    @property
    def max_level(self) -> int:
        return max_level("power_of_two", self.bits)

    def __call__(self, x: jax.Array) -> jax.Array:
        return quantizers.power_of_two(x, self.clipping_level, self.bits)


class Fixed(_Quantizer):
    """Rounds to the integers 0 .. n: what the original script trains with."""

    def __call__(self, x: jax.Array) -> jax.Array:
        return quantizers.fixed(x, self.bits)


class Sigmoid(_Quantizer):
    """Like `Fixed`, with the gradient of a staircase of sigmoids whose temperature training raises."""

    def __init__(self, bits: int, temperature: float = 1.0):
        super().__init__(bits)
        self.temperature = Temperature(jnp.float32(temperature))

    def __call__(self, x: jax.Array) -> jax.Array:
        return quantizers.sigmoid(x, self.temperature[...], self.bits)


class FloatActivation(nnx.Module):
    """No quantizer: the identity, without a step."""

    max_level = None
    step = None

    def __call__(self, x: jax.Array) -> jax.Array:
        return x


ACTIVATIONS = {"pact": PACT, "fixed": Fixed, "lsq": LSQ, "sigmoid": Sigmoid, "power_of_two": PowerOfTwo}


def activation(name: str, bits: int) -> nnx.Module:
    """The quantizer `name` (a key of `ACTIVATIONS`, or "none") with `bits` (1 to 8; 32 means float).

    Raises:
      ValueError: unknown name; impossible bits.
    """
    if name == "none" or bits == 32:
        return FloatActivation()
    if name not in ACTIVATIONS:
        raise ValueError(f"model.activation must be one of {', '.join(ACTIVATIONS)}, none; got {name!r}")
    if not 1 <= bits <= 8:
        raise ValueError(f"model.act_bits must be 1 to 8, or 32 for float; got {bits}")
    return ACTIVATIONS[name](bits)
