import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from tests.nn.layer_cases import RNGS


@pytest.mark.parametrize("inputs, outputs", [(7, 10), (512, 10)])
def test_classifier_sums_are_those_of_python_integers(inputs, outputs):
    classifier = nn.Classifier(inputs, outputs, fraction_bits=8, rngs=RNGS)
    rng = np.random.default_rng(inputs)
    classifier.bias[...] = jnp.float32(rng.normal(size=outputs))
    x = rng.integers(-(2**15), 2**15, (3, inputs))
    kernel, bias, unit = classifier.integer_weights()
    assert np.abs(kernel).max() == 2 ** (classifier.weight_bits - 1) - 1
    sums = [[sum(int(a) * int(b) for a, b in zip(row, col, strict=True)) for col in kernel.T] for row in x]
    expected = np.float32(np.array(sums) + np.asarray(bias)) * np.float32(unit)
    logits = classifier(jnp.float32(x / 256))
    np.testing.assert_allclose(logits, expected, rtol=1e-6)  # one float32 product
    # weights off by half a unit, inputs up to 128 after division by 256: a bound for the sum
    tolerance = inputs * 128 * 0.5 * float(unit) * 256
    floats = (x / 256) @ np.asarray(classifier.kernel[...], np.float64) + np.asarray(classifier.bias[...])
    np.testing.assert_allclose(logits, floats, atol=tolerance)


@pytest.mark.parametrize("inputs", [1, 64, 65, 512, 2048])
def test_classifier_sums_do_not_overflow(inputs):
    """A saturated stream meets the largest weights, and a bias that pulls the same way."""
    classifier = nn.Classifier(inputs, 2, fraction_bits=8, rngs=RNGS)
    classifier.kernel[...] = jnp.float32(np.tile([0.25, -0.25], (inputs, 1)))
    classifier.bias[...] = jnp.float32([4.0, -4.0])
    kernel, bias, unit = classifier.integer_weights()
    top = 2**15 - 1
    expected = [top * int(np.asarray(k, object).sum()) + int(b) for k, b in zip(kernel.T, bias, strict=True)]
    logits = np.asarray(classifier(jnp.full((1, inputs), top / 256, jnp.float32)), np.float64)[0]
    np.testing.assert_allclose(logits / float(unit), expected, rtol=1e-6)  # one float32 product


def test_classifier_gradients_are_those_of_the_float_layer():
    integer, plain = (nn.Classifier(7, 4, fraction_bits=f, rngs=nnx.Rngs(1)) for f in (8, None))
    x = jnp.float32(np.random.default_rng(4).integers(-999, 999, (3, 7)) / 256)

    def loss(layer, x):
        return jnp.sum(layer(x) * jnp.arange(4, dtype=jnp.float32))

    got, expected = (nnx.grad(loss, argnums=(0, 1))(layer, x) for layer in (integer, plain))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    floats = np.asarray(x, np.float64) @ np.asarray(plain.kernel[...]) + np.asarray(plain.bias[...])
    np.testing.assert_allclose(plain(x), floats, atol=1e-5)  # seven float32 products
