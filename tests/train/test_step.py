"""Laws of one training step and one evaluation batch; the arithmetic itself is in test_step_reference.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qresnet_jax.config import default_config
from qresnet_jax.models.networks import create_model
from qresnet_jax.nn.norm import BatchNorm
from qresnet_jax.nn.variables import Temperature
from qresnet_jax.train import optimizer as optim
from qresnet_jax.train.batches import ResidentData
from qresnet_jax.train.network import Network, merge
from qresnet_jax.train.parallel import device_mesh, map_eval_step, map_train_step, replicate
from qresnet_jax.train.step import AXIS, init_state, make_eval_step, make_train_step

IMAGES, STEPS_PER_EPOCH, TOTAL = 20, 3, 6


def configuration(**changes):
    config = default_config()
    config.batch_size = 8
    config.data.crop_padding = 1
    config.model.depth, config.model.in_channels = 8, 1
    config.update_from_flattened_dict(changes)
    return config


class Trainer:
    """A small run without its loop: `state`, `data`, and `advance`."""

    def __init__(self, config, images=None):
        rng = np.random.default_rng(0)
        model = create_model(config.model, rngs=nnx.Rngs(0), dtype=config.dtype)
        self.eval_graphdef = nnx.graphdef(nnx.view(model, use_running_average=True))
        model.set_attributes(BatchNorm, axis_name=AXIS)
        self.graphdef, params, model_state = nnx.split(model, nnx.Param, ...)
        tx = optim.optimizer(config.optim, params, TOTAL, STEPS_PER_EPOCH)
        step = make_train_step(
            Network(self.graphdef),
            tx,
            config,
            num_shards=1,
            steps_per_epoch=STEPS_PER_EPOCH,
            total_steps=TOTAL,
        )
        self.mesh = device_mesh(jax.devices()[:1])
        self._step = map_train_step(step, self.mesh, "shard_map", 1)
        images = rng.integers(0, 256, (IMAGES, 8, 8, 1), np.uint8) if images is None else images
        labels, mean = rng.integers(0, 10, IMAGES, np.int32), np.array([127.5], np.float32)
        order = np.arange(IMAGES, dtype=np.int32)
        self.data = replicate(ResidentData(images, labels, order, mean, jax.random.key(0)), self.mesh)
        self.state = replicate(init_state(params, model_state, tx), self.mesh)

    def trace(self):
        """The step as JAX sees it, not compiled."""
        return self._step.trace(self.state, self.data)

    def advance(self, steps=1):
        for _ in range(steps):
            self.state = self._step(self.state, self.data)
        return self.state


@pytest.fixture(scope="module")
def after_an_epoch():
    trainer = Trainer(configuration())
    trainer.advance(STEPS_PER_EPOCH)
    return trainer


# ---- The state ---------------------------------------------------------------------------------------------


def test_init_state_shares_no_buffer_with_its_arguments():
    params = nnx.State({"a": nnx.Param(jnp.ones(3))})
    state = init_state(params, nnx.State({}), optim.optimizer(default_config().optim, params, 1, 1))
    jax.tree.leaves(state.params)[0].delete()
    assert jax.tree.leaves(params)[0].sum() == 3


def test_the_first_state_has_counted_nothing():
    state = Trainer(configuration()).state
    assert int(state.step) == 0 and int(state.first_bad_step) == -1
    assert {"loss", "correct", "images"} <= state.sums.keys() and not any(map(np.any, state.sums.values()))


def test_a_step_keeps_the_tree_shapes_and_dtypes_of_the_state(after_an_epoch):
    def kinds(tree):
        return jax.tree.map(lambda x: (x.shape, x.dtype), tree)

    assert kinds(Trainer(configuration()).state) == kinds(after_an_epoch.state)


def test_the_same_steps_give_the_same_bits(after_an_epoch):
    again = Trainer(configuration())
    again.advance(STEPS_PER_EPOCH)
    for a, b in zip(*(jax.tree.leaves(t.state) for t in (again, after_an_epoch)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_sums_count_the_images_of_all_steps(after_an_epoch):
    state = after_an_epoch.state
    assert int(state.step) == STEPS_PER_EPOCH
    # 3 batches of 8 for 20 images: the fill-up of the last one counts.
    assert float(state.sums["images"]) == 24
    assert float(state.sums["correct"]) in range(25)
    assert 0 < float(state.sums["loss"]) / 24 < 10


def test_sums_add_up_over_steps():
    trainer, parts = Trainer(configuration()), []
    for _ in range(2):
        zero = jax.tree.map(jnp.zeros_like, trainer.state.sums)
        trainer.state = trainer.state._replace(sums=zero)
        parts.append(jax.device_get(trainer.advance().sums))
    whole = jax.device_get(Trainer(configuration()).advance(2).sums)
    for name, total in whole.items():
        # Counts are exact; XLA may contract the last multiplication of other sums with their addition.
        rel = 0 if name in ("correct", "images") else 1e-6
        assert total == pytest.approx(parts[0][name] + parts[1][name], rel=rel), name


def test_params_of_binary_kernels_are_one_magnitude_with_the_signs_of_the_loop(after_an_epoch):
    hysteresis = after_an_epoch.state.opt_state[-1].inner_states["binary"].inner_state
    params = dict(nnx.to_flat_state(after_an_epoch.state.params))
    for path, latent in nnx.to_flat_state(hysteresis.latent):
        if jax.tree.leaves(latent):
            size = np.abs(np.asarray(latent[...], np.float64)).mean()
            np.testing.assert_allclose(np.abs(params[path][...]), size, rtol=1e-5)  # float32 mean and sum


def test_weight_scale_channel_keeps_one_magnitude_per_output_channel():
    state = Trainer(configuration(**{"model.weight_scale": "channel"})).advance()
    hysteresis = state.opt_state[-1].inner_states["binary"].inner_state
    params = dict(nnx.to_flat_state(state.params))
    for path, latent in nnx.to_flat_state(hysteresis.latent):
        if jax.tree.leaves(latent):
            sizes = np.abs(np.asarray(latent[...], np.float64)).mean((0, 1, 2))
            want = np.broadcast_to(sizes, latent.shape)
            np.testing.assert_allclose(np.abs(params[path][...]), want, rtol=1e-5, err_msg=str(path))


# ---- NaN, bfloat16, temperature ----------------------------------------------------------------------------


def test_the_first_step_with_a_bad_loss_is_remembered():
    trainer = Trainer(configuration(**{"model.weight_bits": 32, "model.activation": "none"}))
    trainer.advance(2)
    assert int(trainer.state.first_bad_step) == -1
    broken = jax.tree.map(lambda x: x * jnp.nan, trainer.state.params)
    trainer.state = trainer.state._replace(params=broken)
    assert int(trainer.advance().first_bad_step) == 2
    assert int(trainer.advance(2).first_bad_step) == 2


def test_an_infinite_loss_is_a_bad_one():
    trainer = Trainer(configuration(**{"model.weight_bits": 32, "model.activation": "none"}))
    classifier = trainer.state.params["classifier"]["bias"]
    classifier[...] = classifier[...].at[0].set(jnp.inf)
    assert int(trainer.advance().first_bad_step) == 0


@pytest.mark.parametrize("weight_bits", [1, 32])
def test_bfloat16_keeps_parameters_statistics_and_latents_in_float32(weight_bits):
    trainer = Trainer(configuration(**{"dtype": "bfloat16", "model.weight_bits": weight_bits}))
    state = trainer.trace().out_info
    assert {x.dtype for x in jax.tree.leaves((state.params, state.model_state, state.sums))} == {
        jnp.dtype("float32")
    }
    kinds = {x.dtype for x in jax.tree.leaves(state.opt_state)}
    assert {kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)} == {jnp.dtype("float32")}


@pytest.mark.slow
def test_bfloat16_trains_with_binary_weights():
    state = Trainer(configuration(dtype="bfloat16")).advance(STEPS_PER_EPOCH)
    assert int(state.first_bad_step) == -1
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.params, state.model_state)))


@pytest.mark.parametrize(("dtype", "kind"), [("bfloat16", "bf16"), ("float32", "f32")])
def test_dtype_is_that_of_every_float_convolution(dtype, kind):
    trainer = Trainer(configuration(**{"dtype": dtype, "model.weight_bits": 32, "model.activation": "none"}))
    lines = str(trainer.trace().jaxpr).split("\n")
    assert {x.split("=")[0].split(":")[-1].split("[")[0] for x in lines if "conv_general" in x} == {kind}


def test_the_temperature_goes_from_start_to_end_over_training():
    trainer = Trainer(
        configuration(
            **{"model.activation": "sigmoid", "optim.temperature.start": 2.0, "optim.temperature.end": 8.0}
        )
    )
    for step in range(TOTAL):
        state = trainer.advance()
        temperatures = jax.tree.leaves(nnx.state(state.model_state, Temperature))
        assert len(temperatures) == 6  # two of each of three blocks
        assert all(float(t) == pytest.approx(2 + 6 * step / TOTAL, rel=1e-6) for t in temperatures)


# ---- Evaluation --------------------------------------------------------------------------------------------


def test_evaluation_in_float_gives_the_logits_of_the_model(after_an_epoch):
    trainer = after_an_epoch
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 8, 1), np.uint8)
    step = map_eval_step(make_eval_step(Network(trainer.eval_graphdef)), trainer.mesh)
    state = trainer.state
    logits = step(state.params, state.model_state, pixels, trainer.data.mean)

    def model(images):
        return merge(trainer.eval_graphdef, state.params, state.model_state)(images)

    expected = np.asarray(jax.jit(model)((pixels.astype(np.float32) - 127.5) / 64))
    # The same program up to XLA's choices. A stream on the grid may stand at an edge, here in one image at most.
    assert np.sum(np.any(np.abs(logits - expected) > 1e-5, axis=1)) <= 1


def test_evaluation_uses_running_statistics_and_changes_nothing(after_an_epoch):
    trainer = after_an_epoch
    before = jax.tree.map(np.asarray, trainer.state)
    pixels = np.random.default_rng(2).integers(0, 256, (8, 8, 8, 1), np.uint8)
    step = map_eval_step(make_eval_step(Network(trainer.eval_graphdef)), trainer.mesh)
    args = trainer.state.params, trainer.state.model_state

    logits = np.asarray(step(*args, pixels, trainer.data.mean))
    # An image's logits do not depend on what else is in the batch.
    np.testing.assert_array_equal(np.asarray(step(*args, pixels[::-1], trainer.data.mean))[::-1], logits)
    for a, b in zip(*map(jax.tree.leaves, (before, trainer.state)), strict=True):
        np.testing.assert_array_equal(a, b)
