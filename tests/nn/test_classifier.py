import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from qresnet_jax import nn
from qresnet_jax.quantize import fixed_point
from tests.nn.layer_cases import RNGS


@pytest.mark.parametrize("inputs, outputs", [(7, 10), (512, 10)])
def test_classifier_sums_are_those_of_python_integers(inputs, outputs):
    classifier = nn.Classifier(inputs, outputs, fraction_bits=8, rngs=RNGS)
    rng = np.random.default_rng(inputs)
    classifier.bias[...] = jnp.float32(rng.normal(size=outputs))
    x = rng.integers(-(2**15), 2**15, (3, inputs))
    kernel, bias, unit = classifier.integer_weights()
    assert 255 < np.abs(kernel).max() <= 1023
    sums = [[sum(int(a) * int(b) for a, b in zip(row, col, strict=True)) for col in kernel.T] for row in x]
    expected = np.float32(np.array(sums) + np.asarray(bias)) * np.float32(unit)
    logits = classifier(jnp.float32(x / 256))
    np.testing.assert_allclose(logits, expected, rtol=1e-6)  # one float32 product
    # weights off by half a unit, inputs up to 128 after division by 256: a bound for the sum
    tolerance = inputs * 128 * 0.5 * float(unit) * 256
    floats = (x / 256) @ np.asarray(classifier.kernel[...], np.float64) + np.asarray(classifier.bias[...])
    np.testing.assert_allclose(logits, floats, atol=tolerance)


@pytest.mark.parametrize("inputs", [1, 64, 65, 512, 2048, 32_769, 2**16])
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


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.sampled_from([1, 7, 64, 2048, 5000, 2**16]),
    st.sampled_from([0, 1e-6, 1, 1e9]),
    st.integers(0, 2**32 - 1),
)
def test_weights_use_the_range_of_int32_and_never_leave_it(inputs, size, seed):
    """For any weights: from the sparse ones of a trained layer to equal ones; in both libraries that compute units."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(inputs, 3)) * rng.choice([0, 0.01, 1], (inputs, 3)) * size
    kernel[:, 0] = size if seed % 2 else kernel[:, 0]
    for array in (kernel, jnp.float32(kernel)):
        unit = float(fixed_point.classifier_unit(array))
        integers = np.asarray(np.round(array / unit), np.float64)
        sums = 2.0**15 * np.abs(integers).sum(0)
        room = np.asarray(fixed_point.bias_room(integers))
        assert np.all(room > 0) and np.max(sums + room) < 2**31
        assert np.abs(integers).max() <= 1023
        if size:  # one of the two limits is reached, up to the halves that rounding may add
            assert np.abs(integers).max() > 1022 or sums.max() > (0.97 - inputs / 2**16) * 2**31


def test_a_resnet_50s_classifier_keeps_its_weights_to_eight_bits_and_more():
    kernel = np.random.default_rng(0).normal(size=(2048, 1000))  # as trained weights are distributed
    largest = np.abs(np.round(kernel / fixed_point.classifier_unit(kernel))).max()
    assert largest > 2**7  # eight bits with the sign; the worst case would have left six


def test_more_features_than_int32_sums_are_refused():
    with pytest.raises(ValueError, match="Classifier takes at most 65,536 features in integers, got 65,537"):
        nn.Classifier(2**16 + 1, 2, rngs=RNGS)
    assert nn.Classifier(2**16 + 1, 1, fraction_bits=None, rngs=RNGS).in_features == 65_537


def test_classifier_gradients_are_those_of_the_float_layer():
    integer, plain = (nn.Classifier(7, 4, fraction_bits=f, rngs=nnx.Rngs(1)) for f in (8, None))
    x = jnp.float32(np.random.default_rng(4).integers(-999, 999, (3, 7)) / 256)

    def loss(layer, x):
        return jnp.sum(layer(x) * jnp.arange(4, dtype=jnp.float32))

    got, expected = (nnx.grad(loss, argnums=(0, 1))(layer, x) for layer in (integer, plain))
    jax.tree.map(np.testing.assert_array_equal, got, expected)
    floats = np.asarray(x, np.float64) @ np.asarray(plain.kernel[...]) + np.asarray(plain.bias[...])
    np.testing.assert_allclose(plain(x), floats, atol=1e-5)  # seven float32 products
