import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qresnet_jax.quantize import activations


def uniform_level(v, bits):
    return round(min(max(v, 0.0), 2**bits - 1))  # Python rounds ties to even, as IEEE does


def power_level(v, bits):
    """The nearest of 0, 1, 2, 4 .. by search; the lower one of a tie."""
    return min([0, *(2**i for i in range(2**bits - 1))], key=lambda level: (abs(v - level), level))


# name: (quantizer of x, alpha, bits; level of x / step; largest level; whether alpha is free or fixed at n)
QUANTIZERS = {
    "pact": (activations.pact, uniform_level, lambda bits: 2**bits - 1, True),
    "lsq": (activations.lsq, uniform_level, lambda bits: 2**bits - 1, True),
    "fixed": (
        lambda x, alpha, bits: activations.fixed(x, bits),
        uniform_level,
        lambda bits: 2**bits - 1,
        False,
    ),
    "sigmoid": (
        lambda x, alpha, bits: activations.sigmoid(x, jnp.float32(3), bits),
        uniform_level,
        lambda bits: 2**bits - 1,
        False,
    ),
    "power_of_two": (activations.power_of_two, power_level, lambda bits: 2 ** (2**bits - 2), True),
}

CASES = [(name, bits) for name in QUANTIZERS for bits in range(1, 5 if name == "power_of_two" else 9)]


def samples(bits, alpha, dtype=np.float32, seed=0):
    """Activations around all levels and far beyond, without those that float32 cannot tell from a tie."""
    rng = np.random.default_rng(seed)
    spread = np.concatenate(
        [rng.uniform(-0.5, 1.5, 200), 2.0 ** rng.uniform(-16, 0, 80), [0, -0.0, 1, 1e9, -1e9]]
    )
    x = (spread * alpha).astype(dtype).astype(np.float64)
    n = 2**bits - 1
    ties = np.concatenate([np.arange(n) + 0.5, 0.75 * 2.0 ** np.arange(n) * n * 2.0 ** (1 - n)]) / n
    far = np.abs(x[:, None] / alpha - ties).min(1) > 1e-6
    return x[far]


def alphas(bits, free):
    return [1.7, 2.0**-3, 250.3] if free else [2**bits - 1]


@pytest.mark.parametrize("name, bits", CASES)
def test_a_quantizer_gives_the_nearest_level_times_the_step(name, bits):
    quantizer, level, largest, free = QUANTIZERS[name]
    for alpha in alphas(bits, free):
        alpha = float(np.float32(alpha))
        step = alpha / largest(bits)
        x = samples(bits, alpha)
        y = np.asarray(quantizer(jnp.float32(x), jnp.float32(alpha), bits))
        assert y.dtype == np.float32
        levels = np.array([level(min(v, alpha) / step, bits) for v in x])
        np.testing.assert_array_equal(np.round(y.astype(np.float64) / step), levels)
        np.testing.assert_allclose(
            y, levels * step, rtol=3e-7
        )  # the step and the product, rounded to float32
        assert {0, largest(bits)} <= set(levels)


@pytest.mark.parametrize("name, bits", CASES)
def test_a_quantizer_is_monotone_and_idempotent(name, bits):
    quantizer, _, _, free = QUANTIZERS[name]
    for alpha in alphas(bits, free):
        x = np.sort(np.concatenate([samples(bits, alpha), np.linspace(-alpha, 2 * alpha, 301)]))
        y = quantizer(jnp.float32(x), jnp.float32(alpha), bits)
        assert np.all(np.diff(y) >= 0)
        np.testing.assert_array_equal(quantizer(y, jnp.float32(alpha), bits), y)


@pytest.mark.parametrize("name, bits", CASES)
def test_ties_are_decided_as_the_reference_decides_them(name, bits):
    quantizer, level, largest, _ = QUANTIZERS[name]
    alpha = largest(bits)  # step 1: halves are exact in float32
    x = np.arange(-1, min(alpha, 20) + 1, 0.25)
    y = quantizer(jnp.float32(x), jnp.float32(alpha), bits)
    np.testing.assert_array_equal(y, [level(min(v, alpha), bits) for v in x])


@pytest.mark.parametrize("name, bits", CASES)
def test_bfloat16_activations_give_bfloat16_of_the_exact_value(name, bits):
    quantizer, level, largest, free = QUANTIZERS[name]
    for alpha in alphas(bits, free):
        alpha = float(np.float32(alpha))
        step = alpha / largest(bits)
        x = samples(bits, alpha, jnp.bfloat16)
        y = quantizer(jnp.asarray(x, jnp.bfloat16), jnp.float32(alpha), bits)
        assert y.dtype == jnp.bfloat16
        levels = np.array([level(min(v, alpha) / step, bits) for v in x])
        # 2**-8: half a unit of bfloat16's 8 bits
        np.testing.assert_allclose(np.asarray(y, np.float64), levels * step, rtol=2.0**-8)
        if largest(bits) < 128:  # below that error the level can be told
            np.testing.assert_array_equal(np.round(np.asarray(y, np.float64) / step), levels)


def gradients(quantizer, x, alpha, g, bits):
    """Gradients with respect to x and alpha of `sum(g * quantizer(x, alpha, bits))`."""

    def loss(x, alpha):
        return jnp.sum(quantizer(x, alpha, bits) * g)

    return jax.grad(loss, argnums=(0, 1))(jnp.float32(x), jnp.float32(alpha))


@pytest.mark.parametrize(
    "name, bits", [(n, b) for n in ("pact", "power_of_two") for b in (1, 2, 4)] + [("pact", 8)]
)
def test_pact_gradients_are_those_of_choi(name, bits):
    alpha, rng = 1.75, np.random.default_rng(1)
    x = np.concatenate([rng.normal(1, 1.5, 200), [0, alpha, -1, 5]])
    g = rng.normal(size=x.shape).astype(np.float32)
    dx, dalpha = gradients(QUANTIZERS[name][0], x, alpha, g, bits)
    np.testing.assert_array_equal(dx, np.where((x > 0) & (x < alpha), g, 0))
    np.testing.assert_allclose(
        dalpha, g[x >= alpha].sum(dtype=np.float64), rtol=1e-5
    )  # float32 sum of about 60 terms


@pytest.mark.parametrize("bits", [1, 2, 3, 8])
def test_lsq_gradients_are_those_of_esser(bits):
    alpha, rng, n = 1.75, np.random.default_rng(2), 2**bits - 1
    images = 4
    x = np.float32(rng.normal(1, 1.5, (images, 3, 5, 2))).astype(np.float64)
    x[0, 0, 0] = [alpha, 0]
    g = rng.normal(size=x.shape).astype(np.float32)
    dx, dalpha = gradients(activations.lsq, x, alpha, g, bits)
    np.testing.assert_array_equal(dx, np.where((x > 0) & (x < alpha), g, 0))

    dstep = 0.0  # eq. 3: with respect to the step alpha / n
    for value, upstream in zip(x.flat, g.flat, strict=True):
        v = value / (alpha / n)
        dstep += upstream * (0 if v <= 0 else n if v >= n else round(v) - v)
    gradient_scale = 1 / math.sqrt(x.size / images * n)  # section 2.2
    # float32: v up to 255 is good to 1e-5, and 120 terms nearly cancel
    np.testing.assert_allclose(dalpha, dstep / n * gradient_scale, rtol=1e-4)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_fixed_passes_the_gradient_inside_the_range_only(bits):
    n, rng = 2**bits - 1, np.random.default_rng(3)
    x = np.concatenate([rng.uniform(-1, n + 1, 100), [0, n]])
    g = rng.normal(size=x.shape).astype(np.float32)
    dx, _ = gradients(QUANTIZERS["fixed"][0], x, n, g, bits)
    np.testing.assert_array_equal(dx, np.where((x > 0) & (x < n), g, 0))


@pytest.mark.parametrize("bits", [1, 2, 3])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_sigmoid_gradient_is_the_slope_of_the_soft_staircase(bits, temperature):
    def soft_staircase(x):
        return sum(1 / (1 + np.exp(-temperature * (x - (i - 0.5)))) for i in range(1, 2**bits))

    x, h = np.linspace(-3, 2**bits + 2, 97), 1e-4
    slope = (soft_staircase(x + h) - soft_staircase(x - h)) / (2 * h)
    g = np.random.default_rng(4).normal(size=x.shape).astype(np.float32)

    def loss(x, t):
        return jnp.sum(activations.sigmoid(x, t, bits) * g)

    dx, dtemperature = jax.grad(loss, argnums=(0, 1))(jnp.float32(x), jnp.float32(temperature))
    # central differences: h**2 * temperature**3; float32 sigmoids: 1e-7 * temperature
    np.testing.assert_allclose(dx, g * slope, atol=1e-5)
    assert dtemperature == 0


def test_a_hard_sigmoid_approaches_the_true_staircase():
    x = jnp.float32([0.0, 0.25, 0.75, 1.0, 2.0, 3.5])  # between the edges
    slope = jax.grad(lambda x: jnp.sum(activations.sigmoid(x, jnp.float32(200), 2)))(x)
    np.testing.assert_allclose(slope, 0, atol=1e-15)  # 200 * exp(-50)
