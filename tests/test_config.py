"""Wrong configs are refused at once, by name, in the process of `main.py` too: before data is read or a file made."""

import inspect
import json
import pathlib
import runpy
import time

import numpy as np
import pytest
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.config import (
    default_config,
    flatten,
    from_json,
    validate,
    validate_dataset,
    validate_devices,
)
from qresnet_jax.data import ImageDataset, Split
from qresnet_jax.errors import ConfigError, UserError
from qresnet_jax.quantize import registry

REPO = pathlib.Path(__file__).parents[1]
CONFIG_FILES = sorted((REPO / "configs").glob("*.py"))

NOT_A_NUMBER, INFINITY = float("nan"), float("inf")
INT32 = 2**31 - 1
COUNT = f"an integer from 1 to {INT32}"
FLOAT32 = "from 1.2e-38 to 3.4e+38, the range of float32"
AT_LEAST_0, ABOVE_0 = f"a number >= 0: 0, or {FLOAT32}", f"a number > 0: {FLOAT32}"
PREFIX = "a C identifier of at most 63 characters, and not example, as example.c is the example program"
BITS = "a tuple with one entry per stage, each 1 to 8 bits, or 32 for float"
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
    "model.block": (["wide"], "one of basic, bottleneck, preact_basic, preact_bottleneck"),
    "model.stem": (["mnist"], "one of cifar, imagenet"),
    "model.in_channels": ([0, 2**31, True], "an integer from 1 to 4096"),
    "model.num_classes": ([1, 0, 2**31], "an integer from 2 to 1048576"),
    "model.weight_bits": ([0, 2, 8, 16, True, 1.0, 32.0], "one of 1, 32"),
    "model.weight_scale": (["kernel"], "one of layer, channel"),
    "model.act_bits": (
        [(0, 2, 2), (2, 2, 9), (2, 2, -1), (2, 2, 16), (2, 2, 2.0), (True, 2, 2), (2, 2, 2**64), 2],
        BITS,
    ),
    "model.activation": (["relu"], f"one of {', '.join(registry.names())}"),
    "model.stem_weight_bits": ([0, 1, -11, 2**31], "an integer from 2 to 24"),
    "model.stream_fraction_bits": ([-1, 15, 2.5, "8", True, None], "an integer from 0 to 14"),
    "model.sync_bn": ([1], "True or False"),
    "optim.name": (["adam"], "one of sgd, adamw"),
    "optim.learning_rate": ([0.0, -0.1, NOT_A_NUMBER, INFINITY, 1e39, 1e-39, 10**39, True], ABOVE_0),
    "optim.momentum": ([-0.1, 1.0, NOT_A_NUMBER, 1 - 2**-30, False], BELOW_1),
    "optim.weight_decay": ([-1e-4, INFINITY, 1e-39, 1e39], AT_LEAST_0),
    "optim.schedule": (["linear"], "one of cosine, step, constant"),
    "optim.warmup_epochs": ([-1.0, NOT_A_NUMBER], AT_LEAST_0),
    "optim.label_smoothing": ([-0.1, 1.0, 1 - 2**-30], BELOW_1),
    "optim.gradient_clip": ([-1.0, 1e-39, INFINITY], AT_LEAST_0),
    "optim.hysteresis.threshold": ([-0.1, NOT_A_NUMBER, 1e39, True], AT_LEAST_0),
    "optim.hysteresis.relative": (["no", 1], "True or False"),
    "optim.clipping_level.learning_rate": ([-0.01, 1e39], AT_LEAST_0),
    "optim.clipping_level.l2": ([-1e-4, 1e39], AT_LEAST_0),
    "optim.temperature.start": ([0.0, -1.0, 1e-39], ABOVE_0),
    "optim.temperature.end": ([0.0, INFINITY, 1e39], ABOVE_0),
    "predict.images": (
        [7, (1, 2), ("a.png", "")],
        "a string, or a tuple of strings; a name that is a number needs a directory before it, as in ./7",
    ),
    "export.format": (["onnx3", ""], "one of packed, c, onnx, qonnx, stablehlo"),
    "export.c_prefix": (["", "7x", "a-b", "é", "x\n", "x" * 64, "Example"], PREFIX),
    "export.c_profile": (["tiny"], "one of fast, small"),
    "bench.batch_sizes": ([(), (0,), (1.5,), 3, (True,), (2**31,)], BATCHES),
    "profile.steps": ([0, 1001, 2.0, True], "an integer from 1 to 1000"),
    "bench.seconds": ([0.0, -1.0, "1", INFINITY, 1e9, True], "a number > 0, at most 86400 (a day)"),
    "packed": ([7], "a string"),
    "export.path": ([7], "a string"),
}
CASES = [(name, value, text) for name, (values, text) in IMPOSSIBLE.items() for value in values]


def changed(**fields):
    """The default config with fields set by dotted name, as they are: a `ConfigDict` makes floats of True and 1."""
    nested = default_config().to_dict()
    for name, value in fields.items():
        part = nested
        *parents, last = name.split(".")
        for parent in parents:
            part = part[parent]
        part[last] = value
    return ConfigDict(nested)


def refusal(config):
    with pytest.raises(ConfigError) as caught:
        validate(config)
    return str(caught.value)


# ---- Files and fields --------------------------------------------------------------------------------------


def test_there_are_config_files():
    assert CONFIG_FILES


@pytest.mark.parametrize("path", CONFIG_FILES, ids=lambda p: p.stem)
def test_every_config_file_is_valid_and_says_its_command(path):
    module = runpy.run_path(str(path))
    validate(module["get_config"]())
    assert f"qresnet --config={path.stem}\n" in module["__doc__"]


def test_a_config_file_that_is_none_is_refused_with_a_way_out(run_main, tmp_path):
    (tmp_path / "other.py").write_text("x = 1\n")
    for given, reason in (
        ("digit", "there is no config file digit"),
        ("configs", "there is no config file configs"),
        (f"{tmp_path}/other.py", f"{tmp_path}/other.py is no config, as it has no function get_config"),
    ):
        result = run_main(f"--config={given}")
        assert result.returncode == 2
        assert result.stderr.startswith(f"error: {reason}: give ")
        assert result.stderr.endswith("as in --config=digits\n") and result.stderr.count("\n") == 1


def test_the_default_config_is_valid():
    validate(default_config())


def test_defaults_of_functions_are_those_of_the_config():
    """The same number stands in a signature, as the layers and the optimizer can be used without a config."""
    from qresnet_jax import nn
    from qresnet_jax.nn.convolutions import WEIGHT_BITS
    from qresnet_jax.nn.variables import BinaryKernel
    from qresnet_jax.quantize import fixed_point, hysteresis, weights

    def default(function, argument):
        return inspect.signature(function).parameters[argument].default

    fields = flatten(default_config())
    for argument in ("threshold", "relative"):
        loop = default(hysteresis.hysteresis_binarize, argument)
        assert loop == fields[f"optim.hysteresis.{argument}"] and type(loop) in (float, bool)
    assert default(nn.Sigmoid.__init__, "temperature") == fields["optim.temperature.start"]
    assert default(nn.BinaryConv.__init__, "scale") == fields["model.weight_scale"]
    assert default(BinaryKernel.__init__, "weight_scale") == fields["model.weight_scale"]
    assert default(weights.binarize, "scale") == fields["model.weight_scale"]
    assert fields["model.stem_weight_bits"] == WEIGHT_BITS
    assert fields["model.stream_fraction_bits"] == fixed_point.FRACTION_BITS


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
        if name in ("optim.momentum", "optim.label_smoothing"):
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


@pytest.mark.parametrize("start", configs.WITHOUT_EFFECT)
def test_fields_of_the_call_are_fields(start):
    names = [name for name in flatten(default_config()) if name.startswith(start)]
    assert names == [start] or (names and start.endswith("."))


@pytest.mark.parametrize("name", flatten(default_config()))
def test_a_missing_field_is_named(name):
    config = default_config()
    *parents, last = name.split(".")
    part = config
    for parent in parents:
        part = part[parent]
    del part[last]
    assert f"config.{name} is missing" in refusal(config)


def test_an_unknown_field_is_refused_with_the_list_of_fields():
    config = default_config()
    config.model.bits = 2
    message = refusal(config)
    assert message.startswith("config.model.bits is not a field; the fields are seed, batch_size")
    assert "optim.hysteresis.threshold" in message


def test_flatten_gives_dotted_names():
    tree = {"a": 1, "b": {"c": {"d": (2,)}}}
    assert flatten(tree) == flatten(ConfigDict(tree)) == {"a": 1, "b.c.d": (2,)}


# ---- Fields that must fit each other -----------------------------------------------------------------------

RELATIONS = [
    ({"model.depth": 21}, ("config.model.depth=21", "6n+2", "20, 32, 44")),
    ({"model.depth": 2}, ("config.model.depth=2", "6n+2")),
    ({"model.depth": 32, "model.block": "bottleneck"}, ("config.model.depth=32", "9n+2", "164")),
    ({"model.depth": 21, "model.stem": "imagenet"}, ("config.model.depth=21", "18 (basic), 34 (basic), 50")),
    ({"model.act_bits": (2, 2)}, ("config.model.act_bits=(2, 2)", "must have 3 entries")),
    (
        {"model.depth": 18, "model.stem": "imagenet"},
        ("config.model.act_bits=(2, 2, 2)", "must have 4 entries"),
    ),
    (
        {"model.activation": "power_of_two", "model.act_bits": (2, 5, 2)},
        ("config.model.act_bits=(2, 5, 2)", "1 to 4 bits"),
    ),
    ({"model.stem_weight_bits": 12}, ("config.model.stem_weight_bits=12", "at most 11", "2**24")),
    ({"model.in_channels": 64}, ("config.model.stem_weight_bits=11", "64 channels")),
    ({"model.in_channels": 4096, "model.stem_weight_bits": 2}, ("config.model.in_channels=4096", "2**24")),
    (
        {"model.width": 242, "model.weight_bits": 32, "model.activation": "none"},
        ("config.model.width=242", "2,158,903,296", "int32"),
    ),
    *(
        ({f"distributed.{name}": value for name, value in fields.items()}, texts)
        for fields, texts in (
            ({"num_processes": 2}, ("config.distributed.num_processes=2", "coordinator=HOST:PORT")),
            ({"process_id": 0}, ("config.distributed.process_id=0", "coordinator=HOST:PORT")),
            ({"coordinator": "a:1", "process_id": 0}, ("coordinator='a:1'", "num_processes", "at least 2")),
            ({"coordinator": "a:1", "num_processes": 2}, ("process_id=-1: must be from 0 to 1",)),
            ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, ("process_id=2", "from 0 to 1")),
            ({"coordinator": "a:1", "num_processes": 3, "process_id": 0}, ("batch_size=128", "processes=3")),
            *(
                (
                    {"coordinator": text, "num_processes": 2, "process_id": 0},
                    (f"config.distributed.coordinator={text!r}: must be HOST:PORT",),
                )
                for text in ("a", "a:", ":1", "a:b", "a:0", "a:65536", "a:1.5", "a:" + "9" * 30, "[::1]")
            ),
            ({"auto": True, "coordinator": "a:1"}, ("config.distributed.coordinator='a:1'", "leave it out")),
            ({"auto": True, "num_processes": 2}, ("config.distributed.num_processes=2", "leave it out")),
            ({"auto": True, "process_id": 0}, ("config.distributed.process_id=0", "leave it out")),
        )
    ),
    ({"distributed.auto": True, "parallel": "pmap"}, ("config.parallel='pmap'", "one process only")),
    ({"optim.warmup_epochs": 200.0}, ("config.optim.warmup_epochs=200.0", "below num_epochs=200")),
]


@pytest.mark.parametrize(("fields", "texts"), RELATIONS, ids=[str(f) for f, _ in RELATIONS])
def test_fields_that_do_not_fit_each_other_are_refused(fields, texts):
    message = refusal(changed(**fields))
    assert all(text in message for text in texts), message


def test_the_most_stem_weight_bits_keep_every_sum_below_2_24():
    most = configs.architecture.max_stem_weight_bits("cifar", 3)
    largest_sum = 27 * 510 * (2 ** (most - 1) - 1)
    assert largest_sum < 2**24 <= 27 * 510 * (2**most - 1)
    validate(changed(**{"model.stem_weight_bits": most}))


def test_a_batch_that_the_devices_cannot_share_is_refused():
    config = changed(batch_size=100)
    validate_devices(config, 4)
    with pytest.raises(ConfigError, match=r"^config\.batch_size=100: must be a multiple of the 8 devices$"):
        validate_devices(config, 8)


def test_a_data_set_of_other_channels_or_classes_is_refused():
    split = Split(np.zeros((1, 8, 8, 1), np.uint8), np.zeros(1, np.int32))
    dataset = ImageDataset(name="grey", train=split, test=split, class_names=("a", "b"))
    with pytest.raises(ConfigError, match=r"^config\.model\.in_channels=3: must be 1 for grey$"):
        validate_dataset(default_config(), dataset)
    with pytest.raises(ConfigError, match=r"^config\.model\.num_classes=10: must be 2 for grey$"):
        validate_dataset(changed(**{"model.in_channels": 1}), dataset)
    validate_dataset(changed(**{"model.in_channels": 1, "model.num_classes": 2}), dataset)


def test_more_steps_than_int32_counts_are_refused():
    split = Split(np.zeros((300, 8, 8, 1), np.uint8), np.zeros(300, np.int32))
    dataset = ImageDataset(name="grey", train=split, test=split, class_names=("a", "b"))
    fields = {"model.in_channels": 1, "model.num_classes": 2, "batch_size": 100}
    validate_dataset(changed(**fields, num_epochs=INT32 // 3), dataset)
    with pytest.raises(
        ConfigError, match=r"^config\.num_epochs=715827883: the run would have 2,147,483,649 steps"
    ):
        validate_dataset(changed(**fields, num_epochs=INT32 // 3 + 1), dataset)


def test_a_config_error_is_a_user_error_and_a_value_error():
    assert issubclass(ConfigError, UserError) and issubclass(ConfigError, ValueError)


# ---- The command line --------------------------------------------------------------------------------------

UNREADABLE = "--config.data.name=no_such_set"  # reading data would fail with another message
COMMANDS = [
    (["--config.model.depth=21"], 1, ["config.model.depth=21", "6n+2"]),
    (["--config.model.act_bits=(2, 0, 2)"], 1, ["config.model.act_bits=(2, 0, 2)", "1 to 8 bits"]),
    (["--config.batch_size=100"], 8, ["config.batch_size=100", "multiple of the 8 devices"]),
    (["--config.optim.hysteresis.threshold=-0.1"], 1, ["config.optim.hysteresis.threshold=-0.1", ">= 0"]),
    (["--config.optim.learning_rate=-1"], 1, ["config.optim.learning_rate=-1", "> 0"]),
    (["--config.model.activation=relu"], 1, ["config.model.activation='relu'", "pact", "none"]),
    (["--config.model.act_bits[1]=0"], 1, ["model.act_bits", "given whole"]),
    (
        ["--config.model.bitz=2"],
        1,
        ["a field given as --config.FIELD does not exist: model.bitz. Did you mean"],
    ),
    (["--config.modle.depth=8"], 1, ["modle.depth. Did you mean model.depth instead"]),
    (["--config.optim.hysteresis.treshold=1"], 1, ["Did you mean optim.hysteresis.threshold instead"]),
    (["--config.depth=8"], 1, ["Did you mean model.depth instead of depth?"]),
    (["--config.model.act_bits.0=2"], 1, ["Did you mean model.act_bits instead"]),
    (["--config.optim.lr=0.1"], 1, ["optim.lr; the fields are optim.", "optim.learning_rate"]),
    (["--config.model.depth=twenty"], 1, ["config.model.depth", "twenty"]),
    (["--mode=fly"], 1, ["mode", "fly", "train", "eval", "prepare_data"]),
    (["--mode=export", "--config.distributed.auto=True"], 1, ["no use in --mode=export", "leave it out"]),
    (["--config.distributed.auto=True"], 1, ["auto=True: nothing was detected", "SLURM", "coordinator"]),
    (["--nonsense=1"], 1, ["nonsense"]),
    (["stray"], 1, ["stray"]),
]


def short_error(result):
    """The message of a user's mistake: on standard error, without a traceback."""
    assert result.returncode not in (0, None) and "Traceback" not in result.stderr, result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith(("error:", "FATAL"))]
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.parametrize(("flags", "devices", "texts"), COMMANDS, ids=[c[0][0] for c in COMMANDS])
def test_main_refuses_before_it_reads_data_or_makes_a_file(run_main, tmp_path, flags, devices, texts):
    workdir = tmp_path / "run"
    arguments = ("--config=configs/digits.py", f"--workdir={workdir}", UNREADABLE, *flags)
    message = short_error(run_main(*arguments, devices=devices))
    assert all(text in message for text in texts), message
    assert not workdir.exists()


def test_main_takes_valid_overrides_and_then_meets_the_data_set(run_main, tmp_path):
    flags = ["--config.model.stream_fraction_bits=7", "--config.model.act_bits=(1, 32, 8)", UNREADABLE]
    result = run_main("--config=configs/digits.py", f"--workdir={tmp_path}/run", *flags)
    assert "data.name='no_such_set' is not known" in short_error(result)


@pytest.mark.parametrize("mode", ["train", "prepare_data"])
def test_missing_data_is_answered_within_5_seconds_by_how_to_get_it(run_main, tmp_path, mode):
    (tmp_path / "raw").mkdir()
    places = [f"--config.data.data_dir={tmp_path}/data", f"--config.data.raw_dir={tmp_path}/raw"]
    began = time.monotonic()
    flags = [
        "--config=configs/digits.py",
        "--config.data.name=mnist",
        f"--workdir={tmp_path}/run",
        f"--mode={mode}",
    ]
    message = short_error(run_main(*flags, *places))
    assert (
        mode == "train" or time.monotonic() - began < 5
    )  # training imports JAX first, which may take as long
    assert str(tmp_path / "raw") in message and "train-images-idx3-ubyte" in message


@pytest.mark.parametrize("mode", ["train", "eval", "prepare_data"])
def test_main_without_a_config_says_how_to_give_one(run_main, mode):
    assert "--config=digits" in short_error(run_main(f"--mode={mode}"))


def test_main_with_a_config_file_that_is_not_there_names_it(run_main):
    assert "configs/none.py" in short_error(run_main("--config=configs/none.py"))


def test_help_exits_with_0_and_names_the_flags(run_main):
    result = run_main("--help")
    assert result.returncode == 0
    assert all(flag in result.stdout for flag in ("--config", "--workdir", "--mode", "prepare_data"))


def test_a_config_comes_back_from_json_without_the_fields_that_are_gone_and_newer_ones_have_their_defaults():
    config = changed(**{"model.act_bits": (4, 4, 4), "model.stream_fraction_bits": 5, "seed": 7})
    saved = json.loads(json.dumps(config.to_dict()))
    assert flatten(from_json(saved)) == flatten(config)
    del saved["bench"], saved["packed"]
    saved |= {"gone": 1, "all": {"gone": 2}}
    saved["model"]["gone"] = [3]
    assert flatten(from_json(saved)) == flatten(config)
