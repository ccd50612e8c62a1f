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
from qresnet_jax.nn.carriers import Levels, Stream, Sums
from qresnet_jax.nn.classifier import Classifier
from qresnet_jax.nn.convolutions import BinaryConv, FloatConv, StemConv
from qresnet_jax.nn.functions import add, global_mean, max_pool, relu, to_stream
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.nn.recording import recorded
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
    "Levels",
    "NormParam",
    "PowerOfTwo",
    "Quantizer",
    "Sigmoid",
    "StemConv",
    "Stream",
    "Sums",
    "Temperature",
    "activation",
    "add",
    "global_mean",
    "max_pool",
    "recorded",
    "relu",
    "to_stream",
]
