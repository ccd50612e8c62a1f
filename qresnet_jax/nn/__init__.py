"""The public layers, quantizers and variable types of low-bit networks, as Flax NNX modules."""

from qresnet_jax.nn.activations import (
    LSQ,
    PACT,
    Fixed,
    FloatActivation,
    PowerOfTwo,
    Quantizer,
    Sigmoid,
    activation,
)
from qresnet_jax.nn.classifier import Classifier
from qresnet_jax.nn.convolutions import BinaryConv, FloatConv, StemConv
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel, NormParam, Temperature

__all__ = [
    "LSQ",
    "PACT",
    "BatchNorm",
    "BinaryConv",
    "BinaryKernel",
    "Classifier",
    "ClippingLevel",
    "Fixed",
    "FloatActivation",
    "FloatConv",
    "NormParam",
    "PowerOfTwo",
    "Quantizer",
    "Sigmoid",
    "StemConv",
    "Temperature",
    "activation",
]
