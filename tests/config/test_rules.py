"""Each field takes what it may be, and refuses all else by name."""

import numpy as np
import pytest

from qresnet_jax.config import default_config, flatten, validate
from qresnet_jax.errors import ConfigError
from qresnet_jax.quantize import registry
from tests.config.config_cases import changed, refusal

NOT_A_NUMBER, INFINITY = float("nan"), float("inf")
INT32 = 2**31 - 1
COUNT = f"an integer from 1 to {INT32}"
FLOAT32 = "from 1.2e-38 to 3.4e+38, the range of float32"
AT_LEAST_0, ABOVE_0 = f"a number >= 0: 0, or {FLOAT32}", f"a number > 0: {FLOAT32}"
PREFIX = "a C identifier of at most 63 characters, and not example, as example.c is the example program"
BITS = "a tuple with one entry per stage, each 1 to 8 bits, or 32 for float"
SHARE = "above 0 and at most 1, also when rounded to float32"
BELOW_1 = "at least 0 and below 1, also when rounded to float32"
BATCHES = "a tuple of numbers of images, each from 1 to 65536"

IMPOSSIBLE = {
    "seed": ([-1, 1.5, 2**32, 2**63, True], "an integer from 0 to 4294967295"),
    "batch_size": ([0, -128, 2**24 + 1, True], "an integer from 1 to 16777216"),
    "num_epochs": ([0, -1, 2**31, True], COUNT),
    "log_every_steps": ([0, 2**31], COUNT),
    "checkpoint_every_epochs": ([0, 2**31], COUNT),
    "remat": (["", "all", True, None], "one of none, convolutions, block"),
    "steps_per_dispatch": ([-1, 2**31, False], f"an integer from 0 to {INT32}"),
    "parallel": (["jit", ""], "one of shard_map, pmap"),
    "dtype": (["float16", "float64"], "one of float32, bfloat16"),
    "init_from": ([7, "a\0b"], "a string"),
    "distributed.coordinator": ([7, "a\0b"], "a string"),
    "distributed.num_processes": ([0, -1, 65_537, True], "an integer from 1 to 65536"),
    "distributed.process_id": ([-2, 65_536, True], "an integer from -1 to 65535"),
    "distributed.auto": ([1, "slurm"], "True or False"),
    "distributed.start_timeout": ([0, 86_401, 1.5], "an integer from 1 to 86400"),
    "distributed.timeout": ([1, 86_401, 2.5], "an integer from 2 to 86400"),
    "data.name": (["", "a\0b"], "the name of a data set"),
    "data.data_dir": ([7], "a string"),
    "data.raw_dir": ([7], "a string"),
    "data.holdout": ([-0.1, 1.0, NOT_A_NUMBER, False], "a fraction of train, at least 0 and below 1"),
    "data.image_size": ([-1, 4097, 32.0, True], "an integer from 0 to 4096"),
    "data.skip_broken": ([0, "no"], "True or False"),
    "data.crop_padding": ([-1, 4097, True], "an integer from 0 to 4096"),
    "data.flip": ([1, "yes"], "True or False"),
    "data.least_crop_area": (
        [0, 0.0, 1.1, -0.1, True],
        "a fraction of an image's area, above 0 and at most 1",
    ),
    "data.streaming": ([1, "yes", "True", None], "True, False or auto"),
    "data.workers": ([-2, 1025, 1.0, True], "an integer from -1 to 1024"),
    "model.depth": ([0, -20, 60_002, True], "an integer from 1 to 10000"),
    "model.width": ([0, 1025, True], "an integer from 1 to 1024"),
    "model.block": (["wide"], "one of basic, bottleneck, preact_basic, preact_bottleneck, bireal"),
    "model.stem": (["mnist"], "one of cifar, imagenet"),
    "model.in_channels": ([0, 2**31, True], "an integer from 1 to 4096"),
    "model.image_size": ([(32,), (0, 8), (8.0, 8), 32, (8, 2**16)], "a height and a width, such as (32, 32)"),
    "model.num_classes": ([1, 0, 2**31], "an integer from 2 to 1048576"),
    "model.weight_bits": ([0, 2, 8, 16, True, 1.0, 32.0], "one of 1, 32"),
    "model.weight_scale": (["kernel"], "one of layer, channel"),
    "model.name": (
        ["vgg", "", "a.py", ":f", "a.py:", "a.py:1f", "a b:f", 7],
        "resnet, vgg_small, mlp, mobilenet, or a network of your own as FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION",
    ),
    "model.act_bits": (
        [(0, 2, 2), (2, 2, 9), (2, 2, -1), (2, 2, 16), (2, 2, 2.0), (True, 2, 2), (2, 2, 2**64), 2],
        BITS,
    ),
    "model.activation": (["relu"], f"one of {', '.join(registry.names())}"),
    "model.stem_weight_bits": ([0, 1, -11, 2**31], "an integer from 2 to 24"),
    "model.stream_fraction_bits": ([-1, 15, 2.5, "8", True, None], "an integer from 0 to 14"),
    "model.sync_bn": ([1], "True or False"),
    "optim.name": (["adam"], "one of sgd, adamw, muon"),
    "optim.learning_rate": ([0.0, -0.1, NOT_A_NUMBER, INFINITY, 1e39, 1e-39, 10**39, True], ABOVE_0),
    "optim.momentum": ([-0.1, 1.0, NOT_A_NUMBER, 1 - 2**-30, False], BELOW_1),
    "optim.weight_decay": ([-1e-4, INFINITY, 1e-39, 1e39], AT_LEAST_0),
    "optim.schedule": (["linear"], "one of cosine, step, constant"),
    "optim.warmup_epochs": ([-1.0, NOT_A_NUMBER], AT_LEAST_0),
    "optim.latent_rate": ([0.0, -1.0, NOT_A_NUMBER, INFINITY, True], ABOVE_0),
    "optim.float_epochs": ([-1, 1.5, True, 2**31], "an integer from 0 to 2147483647"),
    "optim.label_smoothing": ([-0.1, 1.0, 1 - 2**-30], BELOW_1),
    "optim.gradient_clip": ([-1.0, 1e-39, INFINITY], AT_LEAST_0),
    "optim.muon.learning_rate": ([0.0, -0.1, INFINITY], ABOVE_0),
    "optim.muon.momentum": ([-0.1, 1.0], BELOW_1),
    "optim.hysteresis.threshold": ([-0.1, NOT_A_NUMBER, 1e39, True], AT_LEAST_0),
    "optim.hysteresis.relative": (["no", 1], "True or False"),
    "optim.clipping_level.learning_rate": ([-0.01, 1e39], AT_LEAST_0),
    "optim.clipping_level.l2": ([-1e-4, 1e39], AT_LEAST_0),
    "optim.distillation.teacher": ([7, "a\0b"], "a string"),
    "optim.distillation.weight": ([0.0, 1.5, -0.1, NOT_A_NUMBER, 1 + 2**-20, True], SHARE),
    "optim.distillation.temperature": ([0.0, -2.0, INFINITY], ABOVE_0),
    "optim.temperature.start": ([0.0, -1.0, 1e-39], ABOVE_0),
    "optim.temperature.end": ([0.0, INFINITY, 1e39], ABOVE_0),
    "predict.images": (
        [7, (1, 2), ("a.png", "")],
        "a string, or a tuple of strings; a name that is a number needs a directory before it, as in ./7",
    ),
    "export.format": (["onnx3", ""], "one of packed, c, onnx, qonnx, stablehlo, wasm"),
    "export.c_prefix": (["", "7x", "a-b", "é", "x\n", "x" * 64, "Example"], PREFIX),
    "export.c_profile": (["tiny"], "one of fast, small"),
    "export.c_layout": (["one"], "one of pair, header"),
    "bench.batch_sizes": ([(), (0,), (1.5,), 3, (True,), (2**31,)], BATCHES),
    "profile.steps": ([0, 1001, 2.0, True], "an integer from 1 to 1000"),
    "bench.seconds": ([0.0, -1.0, "1", INFINITY, 1e9, True], "a number > 0, at most 86400 (a day)"),
    "packed": ([7], "a string"),
    "export.path": ([7], "a string"),
}
CASES = [(name, value, text) for name, (values, text) in IMPOSSIBLE.items() for value in values]


def test_the_table_of_impossible_values_has_every_field():
    assert IMPOSSIBLE.keys() == flatten(default_config()).keys()


@pytest.mark.parametrize(("name", "value", "text"), CASES, ids=[f"{n}={v}" for n, v, _ in CASES])
def test_an_impossible_value_is_refused_by_name_with_what_it_may_be(name, value, text):
    assert refusal(changed(**{name: value})) == f"config.{name}={value!r}: must be {text}"


ANYTHING = [
    *(
        None,
        True,
        False,
        "",
        "a",
        "0",
        "1",
        "a\n\0",
        b"1",
        (),
        [],
        {},
        {"a": 1},
        (1, 2, 3),
        [2, 2, 2],
        object(),
        1j,
    ),
    *(
        sign * (2**n + i)
        for n in (0, 1, 5, 7, 8, 15, 16, 24, 31, 32, 63, 64)
        for i in (-1, 0, 1)
        for sign in (-1, 1)
    ),
    *(
        10**400,
        -(10**400),
        10**5000,
        float("nan"),
        float("inf"),
        -float("inf"),
        0.0,
        -0.0,
        0.5,
        1.0,
        1.5,
        -0.1,
    ),
    *(1e-320, 1e-45, 1e-39, 1.2e-38, 1e38, 3.4e38, 3.41e38, 1e308, 1 - 2**-24, 1 - 2**-25, 1 - 2**-26),
    *(np.int64(1), np.float32(0.5), (2**64,) * 3, (2.0,) * 3, (float("nan"),) * 3, "x" * 1000, (1,) * 1000),
]


@pytest.mark.parametrize("value", ANYTHING, ids=lambda v: type(v).__name__)
def test_any_value_is_refused_in_one_line_or_fits_the_type_that_it_is_computed_in(value):
    for name, usual in flatten(default_config()).items():
        _check_any_value(name, usual, value)


def _check_any_value(name, usual, value):
    try:
        config = changed(**{name: value})
        validate(config)
    except ConfigError as error:
        assert str(error).startswith("config.") and "\n" not in str(error) and len(str(error)) < 2000
        return
    if name not in ("predict.images", "data.streaming"):  # of several types
        assert type(value) is type(usual) or (type(value), type(usual)) == (int, float) or value is None
    if type(usual) is int and value is not None:
        least = -1 if name in ("data.workers", "distributed.process_id") else 0
        assert least <= value < 2**32 and (name == "seed" or value < 2**31)
    if type(usual) is float and name not in (
        "data.holdout",
        "data.least_crop_area",
        "bench.seconds",
    ):  # which Python computes with
        device = np.float32(value)
        if name in ("optim.momentum", "optim.muon.momentum", "optim.label_smoothing"):
            assert 0 <= device < 1
        else:
            assert np.isfinite(device) and (device == 0) == (value == 0)


def test_numbers_at_the_ends_of_their_ranges_are_taken():
    validate(changed(seed=2**32 - 1, batch_size=2**24, num_epochs=2**31 - 1, log_every_steps=2**31 - 1))
    validate(changed(**{"optim.learning_rate": 3.4e38, "optim.weight_decay": 1.2e-38, "optim.momentum": 0}))
    validate(changed(**{"model.depth": 1202, "bench.batch_sizes": (65536,)}))


def test_each_seed_that_is_taken_gives_other_weights():
    from flax import nnx

    seeds = (0, 1, 2**31 - 1, 2**31, 2**32 - 1)
    assert len({tuple(np.asarray(nnx.Rngs(seed).params.normal(4))) for seed in seeds}) == len(seeds)


def test_activations_are_those_that_there_are():
    from qresnet_jax import nn

    for name in registry.names():
        validate(changed(**{"model.activation": name}))
        nn.activation(name, 2)
