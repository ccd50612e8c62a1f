import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax import nn
from qresnet_jax.config import default_config
from qresnet_jax.models.resnet import BirealBlock, Block, PreactBlock, Precision, create_model
from qresnet_jax.quantize import registry

UNIT = 2.0**-8


def model_config(**changes):
    """The smallest basic network, W1A2, where `changes` do not say otherwise."""
    config = default_config().model
    config.depth = 8
    with config.ignore_type():  # None and tuples of another length
        config.update(changes)
    return config


def abstract(config):
    """The network in shapes only, without the time that arrays take."""
    return nnx.eval_shape(lambda: create_model(config, rngs=nnx.Rngs(0)))


def smallest(block, activation="pact"):
    return model_config(block=block, depth=11 if "bottleneck" in block else 8, activation=activation)


def images(n=2, size=8, channels=3, seed=0):
    """Normalised: (2 * pixel - 2 * mean) / 128."""
    rng = np.random.default_rng(seed)
    return jnp.float32((2 * rng.integers(0, 256, (n, size, size, channels)) - 255) / 128)


def as_trained(module, seed=0):
    """Sets batch norms as training might, gammas negative and zero among them, and clipping levels off n."""
    rng = np.random.default_rng(seed)
    for _, part in nnx.iter_modules(module):
        if isinstance(part, nn.BatchNorm):
            size = part.mean.shape
            gamma = rng.normal(0.5, 1, size)
            gamma[0] = 0
            part.mean[...] = jnp.float32(rng.normal(0, 0.3, size))
            part.var[...] = jnp.float32(rng.uniform(0.5, 2, size))
            part.scale[...] = jnp.float32(gamma)
            part.bias[...] = jnp.float32(rng.normal(0.3, 0.5, size))
        if isinstance(part, nn.PACT):
            part.alpha[...] = jnp.float32(rng.uniform(1.5, 3))
    return module


# For what is compiled once and run once: optimization costs more than it gains.
QUICKLY = {"xla_backend_optimization_level": 0}


def apply(module, x, options=None):
    """What the module makes of x, compiled as one program."""
    graph, state = nnx.split(module)
    call = jax.jit(lambda state, x: nnx.merge(graph, state, copy=True)(x), compiler_options=options)
    return np.asarray(call(state, x))


def evaluate(model, x, options=None):
    model.eval()
    return apply(model, x, options)


def gradients_of(module, x):
    """Of the mean square of what it makes of x, in training mode, by its parameters."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)

    def loss(params, rest):
        return jnp.mean(nnx.merge(graph, params, rest, copy=True)(x) ** 2)

    return jax.jit(jax.grad(loss), compiler_options=QUICKLY)(params, rest)


def check_gradients(gradients):
    """All are finite, and no type of parameter is left out."""
    for path, leaf in jax.tree.leaves_with_path(gradients):
        assert np.all(np.isfinite(leaf)), path
    for kind in (nn.BinaryKernel, nn.NormParam):
        assert any(np.any(leaf != 0) for leaf in jax.tree.leaves(nnx.filter_state(gradients, kind)))


# A block in float64.


def conv64(x, kernel, stride):
    k = kernel.shape[0]
    pad = (k - 1) // 2
    big = np.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    rows, columns = ((size - k) // stride + 1 for size in big.shape[1:3])
    out = np.zeros((x.shape[0], rows, columns, kernel.shape[3]))
    for i in range(rows):
        for j in range(columns):
            out[:, i, j] = np.tensordot(
                big[:, i * stride : i * stride + k, j * stride : j * stride + k], kernel, 3
            )
    return out


class Reference:
    """What a block computes, in float64; `nearest_tie` is how close any activation came to an edge, in levels."""

    def __init__(self, block, training):
        self.block, self.training, self.nearest_tie = block, training, math.inf
        self.quantized = isinstance(block.acts[0], nn.PACT)

    def conv(self, conv, x):
        w = np.asarray(conv.kernel[...], np.float64)
        if self.quantized:
            w = np.abs(w).mean() * np.where(w >= 0, 1, -1)
        return conv64(x, w, conv.strides[0])

    def norm(self, norm, x):
        mean, var, gamma, beta = (
            np.asarray(v[...], np.float64) for v in (norm.mean, norm.var, norm.scale, norm.bias)
        )
        if self.training:
            mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta

    def act(self, act, x):
        if not self.quantized:
            return np.maximum(x, 0)
        n, alpha = 2**act.bits - 1, float(act.alpha[...])
        v = np.clip(x, 0, alpha) * n / alpha
        self.nearest_tie = min(self.nearest_tie, np.abs(v - np.floor(v) - 0.5).min())
        return np.round(v) * alpha / n

    def grid(self, x):
        return np.clip(np.floor(x / UNIT + 0.5), -(2**15), 2**15 - 1) * UNIT if self.quantized else x

    def basic(self, x):
        block = self.block
        first = self.act(block.acts[0], x)
        y = np.maximum(self.norm(block.norms[0], self.conv(block.convs[0], first)), 0)
        y = self.norm(block.norms[1], self.conv(block.convs[1], self.act(block.acts[1], y)))
        return np.maximum(self.grid(y) + self.shortcut(x, first, block.project_norm), 0)

    def preact(self, x):
        block = self.block
        first = self.act(block.acts[0], np.maximum(self.norm(block.norms[0], x), 0))
        y = np.maximum(self.norm(block.norms[1], self.conv(block.convs[0], first)), 0)
        y = self.conv(block.convs[1], self.act(block.acts[1], y))
        return self.grid(y) + self.shortcut(x, first)

    def bireal(self, x):
        for conv, norm, act in zip(self.block.convs, self.block.norms, self.block.acts, strict=True):
            first = self.act(act, x)
            y = self.grid(self.norm(norm, self.conv(conv, first)))
            x = y + (self.shortcut(x, first, self.block.project_norm) if conv is self.block.convs[0] else x)
        return x

    def shortcut(self, x, first, norm=None):
        if not self.block.project:
            return x
        y = self.conv(self.block.project, first)
        return self.grid(y if norm is None else self.norm(norm, y))


def small_block(kind, stride, binary):
    precision = Precision(
        binary=binary,
        weight_scale="layer",
        activation="pact" if binary else "none",
        fraction_bits=8 if binary else None,
        dtype=jnp.dtype("float32"),
    )
    out = 6 if stride == 1 else 9
    return as_trained(kind(6, [(out, 3, stride), (out, 3, 1)], 2, precision, rngs=nnx.Rngs(stride)))


REFERENCES = {Block: Reference.basic, PreactBlock: Reference.preact, BirealBlock: Reference.bireal}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", REFERENCES)
def test_a_block_is_what_numpy_computes_in_float64(kind, stride, training):
    stream = np.random.default_rng(8).integers(-300, 900, (2, 7, 5, 6)) * UNIT
    block = small_block(kind, stride, binary=True)
    block.train() if training else block.eval()
    reference = Reference(block, training)
    expected = REFERENCES[kind](reference, stream)
    assert reference.nearest_tie > 1e-5  # float32 decides as float64 does
    out = apply(block, jnp.float32(stream))
    np.testing.assert_array_equal(out / UNIT, np.round(out / UNIT))
    # Each of two summands may round to the other side, because of float32 or of M and C; few do.
    assert np.abs(out - expected).max() <= 2 * UNIT
    assert np.mean(out != expected) < 0.1


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kind", REFERENCES)
def test_a_float_block_has_no_grid(kind, stride):
    stream = np.random.default_rng(8).normal(0, 1, (2, 7, 5, 6)).astype(np.float32)
    if kind is Block:
        stream = np.maximum(stream, 0)  # as the block before leaves it
    block = small_block(kind, stride, binary=False)
    block.eval()
    expected = REFERENCES[kind](Reference(block, training=False), stream)
    np.testing.assert_allclose(
        apply(block, jnp.asarray(stream)), expected, atol=1e-4
    )  # float32 through two convolutions


# Whole networks.


@pytest.mark.parametrize("depth, total, binary", [(20, 272_474, 269_824), (32, 466_906, 463_360)])
def test_parameter_counts_are_those_of_the_paper(depth, total, binary):
    model = abstract(model_config(depth=depth))

    def count(kind):
        return sum(math.prod(v.shape) for v in jax.tree.leaves(nnx.state(model, kind)))

    assert count(nnx.Param) - count(nn.ClippingLevel) == total
    assert count(nn.BinaryKernel) == binary
    assert count(nn.ClippingLevel) == depth - 2  # one in front of each convolution in a block


@pytest.mark.parametrize(
    "depth, block", [(44, "basic"), (56, "preact_basic"), (56, "bottleneck"), (164, "preact_bottleneck")]
)
def test_deep_networks_have_depth_minus_two_convolutions_in_blocks(depth, block):
    model = abstract(model_config(depth=depth, block=block))
    blocks = [block for stage in model.stages for block in stage]
    assert sum(len(block.convs) for block in blocks) == depth - 2
    assert sum(block.project is not None for block in blocks) == (3 if "bottleneck" in block else 2)


@pytest.mark.parametrize("depth, block", [(18, "basic"), (34, "preact_basic"), (50, "bottleneck")])
def test_imagenet_networks_reduce_the_image_32_times(depth, block):
    changes = {
        "depth": depth,
        "block": block,
        "stem": "imagenet",
        "stem_weight_bits": 8,
        "act_bits": (2, 2, 2, 2),
    }
    model = abstract(model_config(**changes, num_classes=7))
    model.eval()
    shapes = []
    model.stages[-1].append(lambda stream: shapes.append(stream.shape) or stream)  # looks at the last stream
    graph, state = nnx.split(model)
    x = jax.ShapeDtypeStruct((1, 65, 96, 3), jnp.float32)
    assert jax.eval_shape(lambda state, x: nnx.merge(graph, state)(x), state, x).shape == (1, 7)
    assert shapes == [(1, 3, 3, 512 if block != "bottleneck" else 2048)]


@pytest.mark.parametrize(
    "block",
    [
        "preact_bottleneck",
        *(pytest.param(b, marks=pytest.mark.slow) for b in ("basic", "bottleneck", "preact_basic")),
    ],
)
def test_every_network_trains_and_evaluates(block):
    model, x = create_model(smallest(block), rngs=nnx.Rngs(0)), images()
    check_gradients(gradients_of(model, x))
    logits = evaluate(model, x, QUICKLY)
    assert logits.shape == (2, 10)
    assert logits.dtype == np.float32
    assert np.all(np.isfinite(logits))


@pytest.mark.parametrize(
    "names",
    [("basic",), pytest.param(("bottleneck", "preact_basic", "preact_bottleneck"), marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("activation", registry.names())
def test_every_activation_trains_and_evaluates_in_every_block(activation, names):
    stream = jnp.float32(np.random.default_rng(9).integers(-300, 900, (2, 7, 5, 6)) * UNIT)
    precision = Precision(
        True, "channel", activation, None if activation == "none" else 8, jnp.dtype("float32")
    )
    for name in names:
        kind = PreactBlock if name.startswith("preact") else Block
        shapes = [(6, 1, 1), (6, 3, 2), (24, 1, 1)] if "bottleneck" in name else [(24, 3, 2), (24, 3, 1)]
        block = kind(6, shapes, 2, precision, rngs=nnx.Rngs(0))
        check_gradients(gradients_of(block, stream))
        out = evaluate(block, stream, QUICKLY)
        assert out.shape == (2, 4, 3, 24)
        assert np.all(np.isfinite(out))
        model = abstract(smallest(name, activation))
        assert (model.fraction_bits is None) == (activation == "none")


def test_a_float_network_has_float_parameters_and_no_grid():
    model = create_model(model_config(weight_bits=32, activation="none"), rngs=nnx.Rngs(0))
    assert not jax.tree.leaves(nnx.state(model, (nn.BinaryKernel, nn.ClippingLevel)))
    assert (model.fraction_bits, model.stem.weight_bits, model.classifier.fraction_bits) == (None, None, None)
    x = images(1)
    # Twice as large a change far below a stream's unit changes the logits twice as much: no grid makes steps of it.
    logits, once, twice = (evaluate(model, x + h * UNIT * jnp.sign(x)) for h in (0, 0.1, 0.2))
    largest = np.abs(once - logits).max()
    assert largest > 0
    np.testing.assert_allclose(twice - logits, 2 * (once - logits), rtol=0, atol=0.1 * largest)


@pytest.mark.parametrize("training", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_bfloat16_changes_no_bit_of_what_a_binary_network_computes(training):
    config = smallest("basic", "pact")
    logits = []
    for dtype in ("float32", "bfloat16"):
        model = as_trained(create_model(config, rngs=nnx.Rngs(0), dtype=dtype))
        model.train() if training else model.eval()
        logits.append(nnx.jit(lambda model, x: model(x))(model, images()))
    assert np.ptp(logits[0]) > 0
    np.testing.assert_array_equal(*logits)


def test_an_image_is_classified_alike_in_every_batch():
    model, x = as_trained(create_model(model_config(), rngs=nnx.Rngs(0))), images(5)
    together = evaluate(model, x)
    np.testing.assert_array_equal(evaluate(model, x[3:4]), together[3:4])


def test_each_stage_quantizes_to_its_own_bits():
    model = create_model(model_config(act_bits=(1, 2, 3)), rngs=nnx.Rngs(0))
    assert [[act.bits for block in stage for act in block.acts] for stage in model.stages] == [
        [1, 1],
        [2, 2],
        [3, 3],
    ]
    model.eval()
    for bits, stage in zip((1, 2, 3), model.stages, strict=True):
        stream = jnp.float32(
            np.random.default_rng(bits).uniform(-1, 2**bits, (2, 8, 8, stage[0].convs[0].in_features))
        )
        assert len(np.unique(stage[0].acts[0](stream))) == 2**bits


def test_odd_images_of_one_channel_are_accepted():
    model = create_model(model_config(in_channels=1, num_classes=3), rngs=nnx.Rngs(0))
    x = jnp.float32(np.random.default_rng(0).integers(-255, 256, (1, 9, 7, 1)) / 128)
    assert evaluate(model, x).shape == (1, 3)


@pytest.mark.parametrize("shape", [(1, 8, 8, 1), (8, 8, 3), (1, 3, 8, 8)])
def test_images_of_another_shape_are_refused(shape):
    model = abstract(model_config())
    with pytest.raises(
        ValueError, match=r"images must be \[N, H, W, 3\], got shape \(" + ", ".join(map(str, shape))
    ):
        model(jnp.zeros(shape, jnp.float32))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weight_bits": 2}, "model.weight_bits must be 1 or 32, got 2"),
        ({"depth": 21}, r"model.depth=21 with basic blocks: the depth must be 6n\+2"),
        ({"block": "wide"}, "model.block must be one of basic, .*, got 'wide'"),
        ({"stem": "mnist"}, "model.stem must be one of cifar, imagenet, got 'mnist'"),
        ({"activation": "relu"}, "model.activation must be one of pact, .*; got 'relu'"),
        (
            {"act_bits": (2, 9, 2)},
            "model.act_bits must be 1 to 8 with pact activations, or 32 for float; got 9",
        ),
        ({"weight_scale": "row"}, "scale must be one of .*, got 'row'"),
    ],
)
def test_impossible_configs_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        abstract(model_config(**changes))


def test_the_whole_config_is_refused():
    with pytest.raises(ValueError, match=r"create_model\(config.model, ...\)"):
        create_model(default_config(), rngs=nnx.Rngs(0))


def kept_for_the_gradient(model, remat):
    """How many bytes the gradient keeps of a forward pass, beside parameters and constants."""
    model.set_attributes(remat=remat)
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)

    def loss(params, rest, x):
        return jnp.sum(nnx.merge(graphdef, params, rest, copy=True)(x))

    x = jax.ShapeDtypeStruct((64, 8, 8, 3), jnp.float32)
    residuals = jax.eval_shape(lambda *args: jax.vjp(loss, *args)[1], params, rest, x)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(residuals))


@pytest.mark.parametrize(
    "block, weight_bits", [("basic", 32), ("bottleneck", 1), ("preact_basic", 1), ("preact_bottleneck", 32)]
)
def test_the_more_is_computed_again_the_less_is_kept(block, weight_bits):
    config = smallest(block)
    config.weight_bits = weight_bits
    everything, convolutions, block = (
        kept_for_the_gradient(abstract(config), how) for how in ("none", "convolutions", "block")
    )
    assert block < convolutions < 0.8 * everything
