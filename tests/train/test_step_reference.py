"""A whole training step of a small network against float64 NumPy: loss, every parameter and every statistic.

The reference is a ResNet-8 W1A2 written by hand: each function returns its value and its gradient as a closure.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax.config import default_config
from qresnet_jax.models.resnet import Precision, ResNet
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.batches import ResidentData
from qresnet_jax.train.network import Network
from qresnet_jax.train.parallel import device_mesh, map_train_step, replicate
from qresnet_jax.train.step import AXIS, init_state, make_train_step

SEED = 2  # of parameters and images: none of its activations lies on an edge
LEVELS, MOMENTUM, EPSILON = 3, 0.9, 1e-5
EDGE = 1e-4  # float32 errors of normalised activations stay below 1e-5, so nothing changes its level
LATENT_EDGE = 1e-7  # and no latent weight its side of the loop: float32 errors of an update stay below 1e-8

# ---- The reference -----------------------------------------------------------------------------------------


def conv(x, kernel, stride):
    """Cross-correlation with (k - 1) / 2 zeros on both sides, by loops over the taps."""
    k = kernel.shape[0]
    pad = (k - 1) // 2
    padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    height, width = ((size + 2 * pad - k) // stride + 1 for size in x.shape[1:3])

    def window(array, i, j):
        return array[:, i : i + stride * height : stride, j : j + stride * width : stride][:, :height, :width]

    taps = [(i, j) for i in range(k) for j in range(k)]
    out = sum(window(padded, i, j) @ kernel[i, j] for i, j in taps)

    def backward(g):
        dkernel, dpadded = np.zeros_like(kernel), np.zeros_like(padded)
        for i, j in taps:
            dkernel[i, j] = np.einsum("nhwi,nhwo->io", window(padded, i, j), g)
            window(dpadded, i, j)[...] += g @ kernel[i, j].T
        return dpadded[:, pad : pad + x.shape[1], pad : pad + x.shape[2]], dkernel

    return out, backward


class Reference:
    """Forward and backward of the network; collects gradients, new statistics and distances from the edges."""

    def __init__(self, params, statistics):
        self.params, self.statistics = params, statistics
        self.grads, self.new_statistics, self.distance = {}, {}, np.inf

    def keep_off(self, x, *edges):
        self.distance = min(self.distance, *(np.abs(x - edge).min() for edge in edges))

    def float_conv(self, x, path, stride=1):
        out, backward = conv(x, self.params[*path, "kernel"], stride)

        def gradient(g):
            dx, self.grads[*path, "kernel"] = backward(g)
            return dx

        return out, gradient

    def binary_conv(self, x, path, stride=1):
        w = self.params[*path, "kernel"]
        out, backward = conv(x, np.abs(w).mean() * np.where(w >= 0, 1.0, -1.0), stride)

        def gradient(g):
            dx, self.grads[*path, "kernel"] = backward(g)  # straight through the sign and the scale
            return dx

        return out, gradient

    def batch_norm(self, x, path):
        gamma, beta = self.params[*path, "scale"], self.params[*path, "bias"]
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        for name, new in (("mean", mean), ("var", variance)):
            self.new_statistics[*path, name] = MOMENTUM * self.statistics[*path, name] + (1 - MOMENTUM) * new
        deviation = np.sqrt(variance + EPSILON)
        normal = (x - mean) / deviation

        def gradient(g):
            self.grads[*path, "scale"], self.grads[*path, "bias"] = (
                (g * normal).sum((0, 1, 2)),
                g.sum((0, 1, 2)),
            )
            g = g * gamma
            return (g - g.mean((0, 1, 2)) - normal * (g * normal).mean((0, 1, 2))) / deviation

        return normal * gamma + beta, gradient

    def relu(self, x):
        self.keep_off(x, 0)
        return np.maximum(x, 0), lambda g: g * (x > 0)

    def pact(self, x, path):
        alpha = self.params[*path, "alpha"]
        self.keep_off(x * LEVELS / alpha, *np.arange(LEVELS) + 0.5, LEVELS)

        def gradient(g):
            self.grads[*path, "alpha"] = g[x >= alpha].sum()
            return g * ((x > 0) & (x < alpha))

        return np.rint(np.clip(x, 0, alpha) * LEVELS / alpha) * alpha / LEVELS, gradient

    def block(self, x, path, stride, has_projection):
        first, back_act1 = self.pact(x, (*path, "acts", 0))
        y, back_conv1 = self.binary_conv(first, (*path, "convs", 0), stride)
        y, back_norm1 = self.batch_norm(y, (*path, "norms", 0))
        y, back_relu1 = self.relu(y)
        y, back_act2 = self.pact(y, (*path, "acts", 1))
        y, back_conv2 = self.binary_conv(y, (*path, "convs", 1))
        y, back_norm2 = self.batch_norm(y, (*path, "norms", 1))
        short = x
        if has_projection:
            short, back_project = self.binary_conv(first, (*path, "project"), stride)
            short, back_project_norm = self.batch_norm(short, (*path, "project_norm"))
        out, back_out = self.relu(y + short)

        def gradient(g):
            g = back_out(g)
            main = back_conv1(back_norm1(back_relu1(back_act2(back_conv2(back_norm2(g))))))
            if has_projection:
                return back_act1(main + back_project(back_project_norm(g)))
            return back_act1(main) + g

        return out, gradient

    def loss(self, images, labels, smoothing):
        """Mean cross entropy and the number of right answers; fills in all gradients."""
        x, back_stem = self.float_conv(images, ("stem",))
        x, back_norm = self.batch_norm(x, ("stem_norm",))
        x, back_relu = self.relu(x)
        back = [back_stem, back_norm, back_relu]
        for stage in range(3):
            stride = 1 if stage == 0 else 2
            x, gradient = self.block(x, ("stages", stage, 0), stride, has_projection=stage > 0)
            back.append(gradient)
        pooled = x.mean((1, 2))
        kernel, bias = self.params["classifier", "kernel"], self.params["classifier", "bias"]
        logits = pooled @ kernel + bias
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        classes = logits.shape[1]
        targets = (1 - smoothing) * np.eye(classes)[labels] + smoothing / classes

        g = (np.exp(log_p) - targets) / len(labels)
        self.grads["classifier", "kernel"], self.grads["classifier", "bias"] = pooled.T @ g, g.sum(0)
        g = np.broadcast_to((g @ kernel.T)[:, None, None] / (x.shape[1] * x.shape[2]), x.shape)
        for gradient in reversed(back):
            g = gradient(g)
        return -(targets * log_p).sum(1).mean(), (logits.argmax(1) == labels).sum()

    def update(self, settings):
        """SGD from rest: new params, and the latents of binary kernels; weight decay spares norms and alphas."""
        new, latents = {}, {}
        for path, p in self.params.items():
            g = self.grads[path]
            if path[-1] == "alpha":
                new[path] = p - settings.clipping_level.learning_rate * (g + settings.clipping_level.l2 * p)
            elif path[-1] in ("scale", "bias") and path[0] != "classifier":
                new[path] = p - settings.learning_rate * g
            else:
                new[path] = p - settings.learning_rate * (g + settings.weight_decay * p)
            if path[-1] == "kernel" and path[0] == "stages":
                latent = latents[path] = new[path]
                size = np.abs(latent).mean()
                width = settings.hysteresis.threshold * size
                assert min(np.abs(latent - width).min(), np.abs(latent + width).min()) > LATENT_EDGE
                old = np.where(p >= 0, 1.0, -1.0)
                new[path] = size * np.where(latent >= width, 1, np.where(latent <= -width, -1, old))
        return new, latents


# ---- The comparison ----------------------------------------------------------------------------------------


def configuration():
    config = default_config()
    config.batch_size = 4
    config.data.crop_padding, config.data.flip = 0, False
    config.model.depth, config.model.in_channels = 8, 1
    config.optim.label_smoothing, config.optim.weight_decay = 0.1, 1e-3
    config.optim.hysteresis.threshold = 0.1
    return config


def arrays(state):
    """Float64 arrays by path, without the places that `optax.partition` leaves empty."""
    return {
        path: np.asarray(x[...], np.float64) for path, x in nnx.to_flat_state(state) if jax.tree.leaves(x)
    }


@pytest.fixture(scope="module")
def both():
    """Our step and the reference's, from the same start: alphas low enough to clip, batch norms off their start."""
    rng = np.random.default_rng(SEED)
    config = configuration()
    # A stream on the grid has an edge every 1/256, so that the reference would have to round as float32 does.
    precision = Precision(True, "layer", "pact", fraction_bits=None, dtype=jnp.dtype("float32"))
    model = ResNet(config.model, precision, rngs=nnx.Rngs(SEED))
    model.set_attributes(BatchNorm, axis_name=AXIS)
    graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
    for path, variable in nnx.to_flat_state(params):
        if path[-1] == "alpha":
            variable[...] = jnp.float32(rng.uniform(1.2, 2))
        elif path[-1] in ("scale", "bias"):
            variable[...] += jnp.float32(rng.normal(0, 0.2, variable.shape))
    start = arrays(params), arrays(model_state)
    tx = optim.optimizer(config.optim, params, total_steps=10, steps_per_epoch=2)
    step = make_train_step(Network(graphdef), tx, config, num_shards=1, steps_per_epoch=2, total_steps=10)
    mesh = device_mesh(jax.devices()[:1])
    images, labels = rng.integers(0, 256, (8, 8, 8, 1), np.uint8), rng.integers(0, 10, 8, np.int32)
    order, mean = rng.permutation(8).astype(np.int32), np.array([100.5], np.float32)
    data = replicate(ResidentData(images, labels, order, mean, jax.random.key(0)), mesh)
    state = map_train_step(step, mesh, "shard_map", 1)(
        replicate(init_state(params, model_state, tx), mesh), data
    )

    reference = Reference(*start)
    first = order[:4]
    loss, correct = reference.loss((images[first] - 100.5) / 64, labels[first], 0.1)
    assert reference.distance > EDGE
    return state, reference, loss, correct, reference.update(config.optim)


def close(got, want, path):
    # Float32 sums of up to a thousand terms, through eight layers and back: relative errors below 1e-5 were
    # expected, of the array's largest entry, as entries cancel.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=str(path))


def test_loss_and_right_answers_are_those_of_the_reference(both):
    state, _, loss, correct, _ = both
    np.testing.assert_allclose(state.sums["loss"] / 4, loss, rtol=1e-6)  # a few units of float32
    assert state.sums["correct"] == correct and state.sums["images"] == 4 and state.first_bad_step == -1


def test_every_parameter_is_that_of_the_reference(both):
    state, reference, _, _, (params, _) = both
    got = arrays(state.params)
    assert got.keys() == params.keys() == reference.grads.keys()
    for path, want in params.items():
        start = reference.params[path]
        close(got[path], want, path)
        if path[-1] != "kernel" or path[0] != "stages":
            # The update itself, too: it is small beside the parameter. Its last digits are lost in float32's sum.
            error = np.abs((got[path] - start) - (want - start)).max()
            assert error < 1e-4 * np.abs(want - start).max() + 1e-7 * np.abs(start).max(), path


def test_latents_and_signs_are_those_of_the_reference(both):
    state, reference, _, _, (params, latents) = both
    hysteresis = state.opt_state[-1].inner_states["binary"].inner_state
    got, signs = arrays(hysteresis.latent), arrays(hysteresis.sign)
    assert got.keys() == latents.keys() == signs.keys()
    flips = 0
    for path, want in latents.items():
        close(got[path], want, path)
        np.testing.assert_array_equal(signs[path], np.sign(params[path]))
        error = np.abs(got[path] - want).max()
        assert error < 1e-4 * np.abs(want - reference.params[path]).max() + 1e-7 * np.abs(want).max(), path
        flips += (signs[path] != np.where(reference.params[path] >= 0, 1, -1)).sum()
    assert flips > 0


def test_every_batch_norm_statistic_is_that_of_the_reference(both):
    state, reference, *_ = both
    got = arrays(state.model_state)
    assert got.keys() == reference.new_statistics.keys()
    for path, want in reference.new_statistics.items():
        close(got[path], want, path)
