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
from qresnet_jax.nn.dense import BinaryDense, FloatDense, StemDense
from qresnet_jax.nn.dropout import Dropout
from qresnet_jax.nn.functions import add, concat, flatten, global_mean, max_pool, mean_pool, relu, to_stream
from qresnet_jax.nn.norm import BatchNorm, Shift
from qresnet_jax.nn.recording import recorded
from qresnet_jax.nn.variables import BinaryKernel, ClippingLevel, NormParam, Temperature

__all__ = [
    "LSQ",
    "PACT",
    "BatchNorm",
    "BinaryConv",
    "BinaryDense",
    "BinaryKernel",
    "Classifier",
    "ClippingLevel",
    "Dropout",
    "Fixed",
    "FloatActivation",
    "FloatConv",
    "FloatDense",
    "Levels",
    "NormParam",
    "PowerOfTwo",
    "Quantizer",
    "Shift",
    "Sigmoid",
    "StemConv",
    "StemDense",
    "Stream",
    "Sums",
    "Temperature",
    "activation",
    "add",
    "concat",
    "flatten",
    "global_mean",
    "max_pool",
    "mean_pool",
    "recorded",
    "relu",
    "to_stream",
]
