"""The layers of a network in the precision that its config asks for: binary weights and levels, or float."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from qresnet_jax import nn
from qresnet_jax.models.architecture import has_integer_form
from qresnet_jax.nn.convolutions import WEIGHT_BITS

if TYPE_CHECKING:
    from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Precision:
    """The settings that all layers of one network share, and the layers that follow from them.

    Args:
      binary: whether the weights between first layer and classifier have 1 bit.
      weight_scale: "layer" or "channel", see `qresnet_jax.binarize`.
      activation: name of the quantizer, as in the config.
      fraction_bits: fraction bits of the residual stream's grid, or None for the float stream of a float network.
      dtype: dtype of float layers and of the operands of products.
      stem_weight_bits: bits of the first layer's integer weights.
    """

    binary: bool
    weight_scale: str
    activation: str
    fraction_bits: int | None
    dtype: jnp.dtype
    stem_weight_bits: int = WEIGHT_BITS

    def stem(
        self, in_features: int, out_features: int, kernel_size: int, strides: int, rngs: nnx.Rngs
    ) -> nn.StemConv:
        """Returns a new convolution for the pixels."""
        return nn.StemConv(
            in_features,
            out_features,
            kernel_size,
            strides,
            weight_bits=None if self.fraction_bits is None else self.stem_weight_bits,
            dtype=self.dtype,
            rngs=rngs,
        )

    def stem_dense(self, in_features: int, out_features: int, rngs: nnx.Rngs) -> nn.StemDense:
        """Returns a new dense layer for the pixels, with as many weight bits as are exact."""
        bits: Any = None if self.fraction_bits is None else "auto"
        return nn.StemDense(in_features, out_features, weight_bits=bits, dtype=self.dtype, rngs=rngs)

    def conv(
        self,
        in_features: int,
        out_features: int,
        kernel_size: int,
        strides: int,
        rngs: nnx.Rngs,
        groups: int = 1,
    ) -> nn.BinaryConv | nn.FloatConv:
        """Returns a new convolution for the inside of a network."""
        shape = (in_features, out_features, kernel_size, strides)
        if self.binary:
            return nn.BinaryConv(*shape, groups=groups, scale=self.weight_scale, dtype=self.dtype, rngs=rngs)
        return nn.FloatConv(*shape, groups=groups, dtype=self.dtype, rngs=rngs)

    def dense(self, in_features: int, out_features: int, rngs: nnx.Rngs) -> nn.BinaryDense | nn.FloatDense:
        """Returns a new dense layer for the inside of a network."""
        if self.binary:
            return nn.BinaryDense(
                in_features, out_features, scale=self.weight_scale, dtype=self.dtype, rngs=rngs
            )
        return nn.FloatDense(in_features, out_features, dtype=self.dtype, rngs=rngs)

    def norm(self, features: int, rngs: nnx.Rngs) -> nn.BatchNorm:
        """Returns a new batch norm."""
        # bfloat16 has too few bits for a stream on the grid, and for thresholds.
        dtype = jnp.float32 if self.binary else self.dtype
        return nn.BatchNorm(features, dtype=dtype, rngs=rngs)

    def act(self, bits: int) -> nn.Quantizer | nn.FloatActivation:
        """Returns a new quantizer."""
        return nn.activation(self.activation, bits)

    def classifier(self, in_features: int, classes: int, rngs: nnx.Rngs) -> nn.Classifier:
        """Returns a new last layer."""
        return nn.Classifier(in_features, classes, fraction_bits=self.fraction_bits, rngs=rngs)


def precision_of(config: "ConfigDict", dtype: DTypeLike = "float32") -> Precision:
    """Returns the precision of the network that `config.model` describes.

    Args:
      config: the `model` part of a config.
      dtype: dtype of float layers and of the operands of products, "float32" or "bfloat16".

    Raises:
      ValueError: if the number of weight bits is not possible.
    """
    if config.weight_bits not in (1, 32):
        raise ValueError(f"model.weight_bits must be 1 or 32, got {config.weight_bits}")
    return Precision(
        binary=config.weight_bits == 1,
        weight_scale=config.weight_scale,
        activation=config.activation,
        fraction_bits=config.stream_fraction_bits if has_integer_form(config) else None,
        dtype=jnp.dtype(dtype),
        stem_weight_bits=config.stem_weight_bits,
    )
