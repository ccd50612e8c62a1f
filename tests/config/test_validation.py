"""Configs whose fields do not fit each other, the devices or the data set are refused."""

import numpy as np
import pytest
from flax import nnx

from qresnet_jax.config import default_config, flatten, validate, validate_dataset, validate_devices
from qresnet_jax.data import ImageDataset, Split
from qresnet_jax.errors import ConfigError, UserError
from qresnet_jax.models import architecture
from qresnet_jax.models.networks import create_model
from tests.config.config_cases import changed, refusal

INT32 = 2**31 - 1

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
    (
        {"model.name": "vgg_small", "model.image_size": (32, 7)},
        ("config.model.image_size=(32, 7)", "at least 8 pixels"),
    ),
    (
        {"model.name": "vgg_small", "model.width": 8, "model.image_size": (264, 256)},
        ("config.model.image_size=(264, 256)", "540,672 features", "65,536", "smaller config.model.width"),
    ),
    (
        {"model.name": "mlp", "model.image_size": (32_897, 1), "model.in_channels": 1},
        ("config.model.image_size=(32897, 1)", "32,897 pixel values", "32,896"),
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
    ({"optim.float_epochs": 200}, ("config.optim.float_epochs=200", "below num_epochs=200")),
    (
        {"optim.float_epochs": 5, "model.weight_bits": 32, "model.act_bits": (32, 32, 32)},
        ("config.optim.float_epochs=5", "float in all epochs", "set it to 0"),
    ),
]


@pytest.mark.parametrize(("fields", "texts"), RELATIONS, ids=[str(f) for f, _ in RELATIONS])
def test_fields_that_do_not_fit_each_other_are_refused(fields, texts):
    message = refusal(changed(**fields))
    assert all(text in message for text in texts), message


def accepted(fields):
    """Whether a config is accepted, and whether its network can be built."""
    config = changed(**fields)
    answers = []
    for make in (
        lambda: validate(config),
        lambda: nnx.eval_shape(lambda: create_model(config.model, rngs=nnx.Rngs(0))),
    ):
        try:
            make()
            answers.append(True)
        except ValueError:
            answers.append(False)
    return answers


@pytest.mark.parametrize(
    ("name", "size", "fits"),
    [
        ("vgg_small", (263, 263), True),
        ("vgg_small", (264, 256), False),
        ("mlp", (32_896, 1), True),
        ("mlp", (32_897, 1), False),
    ],
)
def test_images_are_refused_exactly_where_a_network_with_dense_layers_cannot_be_built(name, size, fits):
    fields = {"model.name": name, "model.width": 1, "model.in_channels": 1, "model.image_size": size}
    assert accepted(fields) == [fits, fits]
    assert accepted({**fields, "model.weight_bits": 32, "model.activation": "none"}) == [True, True]


def test_the_most_stem_weight_bits_keep_every_sum_below_2_24():
    most = architecture.max_stem_weight_bits("cifar", 3)
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
