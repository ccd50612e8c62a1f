import jax
import jax.numpy as jnp
import numpy as np

from qresnet_jax.quantize.straight_through import straight_through


def test_straight_through_returns_the_value_and_differentiates_the_surrogate():
    x = jnp.float32([-1.5, 0.25, 3.0])
    value, vjp = jax.vjp(lambda x: straight_through(jnp.floor(x) * x, x**2), x)
    np.testing.assert_array_equal(value, np.floor(x) * x)
    np.testing.assert_array_equal(vjp(jnp.ones(3))[0], 2 * x)
