"""What the tests of layers and of the stream share: references and inputs."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from qresnet_jax import nn

RNGS = nnx.Rngs(0)


def integer_conv(x, kernel, stride=1):
    """Cross-correlation of int64 arrays, `(k - 1) // 2` zeros around, by a loop over the output pixels."""
    k = kernel.shape[0]
    pad = (k - 1) // 2
    big = np.pad(x.astype(np.int64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((size - k) // stride + 1 for size in big.shape[1:3])
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[3]), np.int64)
    for i in range(rows):
        for j in range(columns):
            window = big[:, i * stride : i * stride + k, j * stride : j * stride + k]
            out[:, i, j] = np.tensordot(window, kernel.astype(np.int64), 3)
    return out


def batch_norm(features, training=False, seed=0):
    """A batch norm as after training, with negative and zero gammas."""
    rng, norm = np.random.default_rng(seed), nn.BatchNorm(features, rngs=RNGS)
    norm.mean[...] = jnp.float32(rng.normal(size=features))
    norm.var[...] = jnp.float32(rng.uniform(0.5, 2, features))
    norm.scale[...] = jnp.float32(rng.normal(size=features)).at[0].set(0)
    norm.bias[...] = jnp.float32(rng.normal(size=features))
    assert (norm.scale[...] < 0).any()
    norm.train() if training else norm.eval()
    return norm


def pixels(shape, seed=0):
    """Normalised images: odd and even multiples of 1/128 up to 510."""
    return np.random.default_rng(seed).integers(-510, 511, shape)
