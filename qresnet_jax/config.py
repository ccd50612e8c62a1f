"""Defines all config fields, their defaults, and their possible values.

This module does not import JAX, so that a wrong config is refused at once.
"""

import difflib
import math
import re
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from ml_collections import ConfigDict, FieldReference

from qresnet_jax.errors import ConfigError, shown
from qresnet_jax.models import architecture
from qresnet_jax.quantize import registry
from qresnet_jax.quantize.exact import SUM_LIMIT

if TYPE_CHECKING:
    from qresnet_jax.data import ImageDataset, StreamedDataset

# The names, or beginnings of names, of fields that belong to a call of the command and not to a run: where the data
# lie, and what to do with the trained network.
OF_THE_CALL = (
    "data.data_dir",
    "data.raw_dir",
    "data.streaming",
    "data.workers",
    "packed",
    "predict.",
    "export.",
    "bench.",
    "distributed.",
    "profile.",
)
# The same for all fields that may differ between runs which learn the same.
WITHOUT_EFFECT = (*OF_THE_CALL, "log_every_steps", "checkpoint_every_epochs", "steps_per_dispatch", "remat")


def default_config() -> ConfigDict:
    """Returns a config with every field at its default: a CIFAR ResNet-20, 1-bit weights, 2-bit activations."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 128  # images in a batch, over all devices
    config.num_epochs = 200
    config.log_every_steps = 100
    config.checkpoint_every_epochs = 1
    # Steps in a call of the compiled program. 0: one on a CPU, where XLA is slow inside loops, else log_every_steps.
    config.steps_per_dispatch = 0
    config.parallel = "shard_map"  # or "pmap"
    # Of activations and convolutions, or "bfloat16". Sums, parameters and statistics are always float32.
    config.dtype = "float32"
    # What the backward pass computes again instead of keeping it: "none"; or "convolutions", for less memory all but the
    # results of the blocks' convolutions; or "block", for least memory the whole block. Batch statistics are always kept.
    config.remat = "none"
    config.init_from = ""  # the workdir or checkpoint whose weights a new run starts from; "": random weights
    config.packed = ""  # a packed file, or the name of a zoo model, to work with instead of a run

    config.distributed = ConfigDict()  # several processes that train one network, see docs/scaling.md
    config.distributed.coordinator = ""  # HOST:PORT of process 0, where all meet; "": there is one process
    config.distributed.num_processes = 1
    config.distributed.process_id = -1  # of this process, from 0
    # Whether all of this is found out from SLURM, Kubernetes, Open MPI or a Cloud TPU.
    config.distributed.auto = False
    config.distributed.start_timeout = 300  # seconds in which all processes must have started
    config.distributed.timeout = 60  # seconds after which a process without a sign of life counts as dead

    config.data = ConfigDict()
    config.data.name = "cifar10"  # see docs/data.md
    config.data.data_dir = ""  # "": $TFDS_DATA_DIR or ~/tensorflow_datasets
    # Where the published archives lie, or "": they are downloaded; for data.name="folder", the folder or its archive.
    config.data.raw_dir = ""
    # The height and width that the middle square of each image, or a random part, is resized to; 0: they have one size.
    config.data.image_size = 0
    config.data.skip_broken = (
        False  # of a folder: whether files that cannot be decoded are left out, or else refused
    )
    # The fraction of train that is kept for validation. 0: no validation, and the last checkpoint is the result.
    config.data.holdout = 0.1
    config.data.crop_padding = 4  # pixels added on each side before a random crop; 0: no crop
    # Training resizes a random part of each image that has at least this fraction of its area; 1: the middle square.
    config.data.least_crop_area = 1.0
    config.data.flip = True  # whether half of the images are flipped left to right, at random

    # Whether the images are read from the disk while training runs, or else held in memory; "auto": by their size. Its
    # type is object, so that it can be set to both.
    config.data.streaming = FieldReference("auto", field_type=object)
    config.data.workers = (
        -1
    )  # processes that decode streamed images; -1: by the number of processors; 0: none

    config.model = ConfigDict()
    config.model.depth = 20  # the number of layers with weights, as in ResNet-20
    config.model.width = 1  # factor on the number of channels
    config.model.block = "basic"  # or "bottleneck", "preact_basic", "preact_bottleneck"
    config.model.stem = "cifar"  # or "imagenet"
    config.model.in_channels = 3
    config.model.num_classes = 10
    config.model.weight_bits = 1  # or 32: float weights
    config.model.weight_scale = "layer"  # one scale for each layer, or "channel": for each output channel
    config.model.act_bits = (2, 2, 2)  # for each stage 1 to 8, or 32 for float
    config.model.activation = "pact"  # the quantizer of the activations; "none": float activations
    config.model.stem_weight_bits = 11
    config.model.stream_fraction_bits = 8  # of the residual stream's grid
    config.model.sync_bn = True  # batch norm over the images of all devices; False: over each device's own

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # or "adamw"
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.9
    config.optim.weight_decay = 0.0  # not applied to batch norm and clipping levels
    config.optim.schedule = "cosine"  # falls to 0; or "step", divided by 10 at 30, 60 and 90 %; or "constant"
    config.optim.warmup_epochs = 0.0  # epochs in which the learning rate rises linearly from 0
    config.optim.label_smoothing = 0.0
    config.optim.gradient_clip = 0.0  # the largest global norm of the gradients; 0: no limit
    config.optim.hysteresis = ConfigDict()
    # A sign flips only when the latent weight has reached the threshold on the other side. 0: no hysteresis.
    config.optim.hysteresis.threshold = 0.0
    config.optim.hysteresis.relative = True  # the threshold is in units of the layer's mean |latent weight|
    config.optim.clipping_level = ConfigDict()
    config.optim.clipping_level.learning_rate = 0.01
    config.optim.clipping_level.l2 = 1e-4  # the weight of their L2 penalty
    config.optim.temperature = ConfigDict()  # of the sigmoid activation, over the training
    config.optim.temperature.start = 1.0
    config.optim.temperature.end = 10.0

    config.predict = ConfigDict()
    # For --mode=predict: image files, directories of them, or patterns such as photos/*.png, separated by commas; or a
    # tuple of them. Its type is object, so that it can be set to both.
    config.predict.images = FieldReference("", field_type=object)

    config.export = ConfigDict()
    config.export.format = "packed"  # for --mode=export; or "c", "onnx", "qonnx", "stablehlo"
    config.export.path = ""  # the file, or directory for "c", to write; "": in WORKDIR, named by the format
    config.export.c_profile = "fast"  # or "small", which prefers small tables to speed
    config.export.c_prefix = "model"  # begins the names of the C files, functions and, in upper case, macros

    config.bench = ConfigDict()  # for --mode=bench
    config.bench.batch_sizes = (1, 16, 128)
    config.bench.seconds = 1.0  # for each engine and batch size

    config.profile = ConfigDict()  # for --mode=profile
    config.profile.steps = 10  # training steps under the profiler; a trace of 1,000 steps may take gigabytes
    return config


_Check = tuple[Callable[[Any], bool], str]  # a test of a field's value, and what is expected of it


# Numbers that do not fit the types that they are computed in would become others without a word: a seed of 2**32 is
# the seed 0 to JAX.
_INT32 = 2**31 - 1
_UINT32 = 2**32 - 1
_FLOAT32 = 2.0**-126, (2 - 2.0**-23) * 2.0**127  # smaller ones are 0 on most devices, larger ones infinite


def _integer(least: int, most: int) -> _Check:
    return lambda v: type(v) is int and least <= v <= most, f"an integer from {least} to {most}"


def _number(test: Callable[[float], bool], text: str) -> _Check:
    return lambda v: type(v) in (int, float) and test(v), text


def _in_float32(value: float) -> float:
    """Returns the number that a device computes with: rounded to float32, 0 if it is too small, or else infinity."""
    if not abs(value) <= _FLOAT32[1]:
        return math.inf if value > 0 else -math.inf
    return 0.0 if abs(value) < _FLOAT32[0] else struct.unpack("f", struct.pack("f", value))[0]


def _one_of(*values: str | int) -> _Check:
    return (
        lambda v: any(type(v) is type(value) and v == value for value in values),
        f"one of {', '.join(map(str, values))}",
    )


_RANGE = "{:.2g} to {:.2g}, the range of float32".format(*_FLOAT32)
_AT_LEAST_0 = _number(
    lambda v: v == 0 or 0 < _in_float32(v) < math.inf, f"a number >= 0: 0, or from {_RANGE}"
)
_ABOVE_0 = _number(lambda v: 0 < _in_float32(v) < math.inf, f"a number > 0: from {_RANGE}")
_BELOW_1 = _number(
    lambda v: v >= 0 and _in_float32(v) < 1, "at least 0 and below 1, also when rounded to float32"
)
_TEXT = (lambda v: isinstance(v, str) and "\0" not in v, "a string")
_FLAG = (lambda v: isinstance(v, bool), "True or False")
_BITS = (
    lambda v: (
        isinstance(v, tuple) and all(type(b) is int and (1 <= b <= registry.MOST_BITS or b == 32) for b in v)
    ),
    f"a tuple with one entry per stage, each 1 to {registry.MOST_BITS} bits, or 32 for float",
)
_MOST_BENCHED = 2**16  # images
_MOST_PROCESSES = 2**16
_DAY = 24 * 60 * 60  # seconds

_RULES = {
    "seed": _integer(0, _UINT32),
    "batch_size": _integer(1, SUM_LIMIT),  # images are counted in float32
    "num_epochs": _integer(1, _INT32),  # and all steps together, see validate_dataset
    "log_every_steps": _integer(1, _INT32),
    "checkpoint_every_epochs": _integer(1, _INT32),
    "steps_per_dispatch": _integer(0, _INT32),
    "parallel": _one_of("shard_map", "pmap"),
    "dtype": _one_of("float32", "bfloat16"),
    "remat": _one_of("none", "convolutions", "block"),
    "init_from": _TEXT,
    "packed": _TEXT,
    "distributed.coordinator": _TEXT,
    "distributed.num_processes": _integer(1, _MOST_PROCESSES),
    "distributed.process_id": _integer(-1, _MOST_PROCESSES - 1),
    "distributed.auto": _FLAG,
    "distributed.start_timeout": _integer(1, _DAY),
    "distributed.timeout": _integer(2, _DAY),
    "data.name": (lambda v: _TEXT[0](v) and v != "", "the name of a data set"),
    "data.data_dir": _TEXT,
    "data.raw_dir": _TEXT,
    "data.image_size": _integer(0, 4096),
    "data.skip_broken": _FLAG,
    "data.holdout": _number(lambda v: 0 <= v < 1, "a fraction of train, at least 0 and below 1"),
    "data.crop_padding": _integer(0, 4096),
    "data.least_crop_area": _number(
        lambda v: 0 < v <= 1, "a fraction of an image's area, above 0 and at most 1"
    ),
    "data.flip": _FLAG,
    "data.streaming": (lambda v: isinstance(v, bool) or v == "auto", "True, False or auto"),
    "data.workers": _integer(-1, 1024),
    "model.depth": _integer(1, 10_000),
    "model.width": _integer(1, 1024),  # see also _validate_sizes
    "model.block": _one_of(*architecture.BLOCKS),
    "model.stem": _one_of(*architecture.STEMS),
    "model.in_channels": _integer(1, 4096),
    "model.num_classes": _integer(2, 2**20),
    "model.weight_bits": _one_of(1, 32),
    "model.weight_scale": _one_of("layer", "channel"),
    "model.act_bits": _BITS,
    "model.activation": (lambda v: v in registry.names(), f"one of {', '.join(registry.names())}"),
    "model.stem_weight_bits": _integer(2, 24),
    "model.stream_fraction_bits": (
        lambda v: type(v) is int and 0 <= v <= 14,
        "an integer from 0 to 14",
    ),
    "model.sync_bn": _FLAG,
    "optim.name": _one_of("sgd", "adamw"),
    "optim.learning_rate": _ABOVE_0,
    "optim.momentum": _BELOW_1,
    "optim.weight_decay": _AT_LEAST_0,
    "optim.schedule": _one_of("cosine", "step", "constant"),
    "optim.warmup_epochs": _AT_LEAST_0,
    "optim.label_smoothing": _BELOW_1,
    "optim.gradient_clip": _AT_LEAST_0,
    "optim.hysteresis.threshold": _AT_LEAST_0,
    "optim.hysteresis.relative": _FLAG,
    "optim.clipping_level.learning_rate": _AT_LEAST_0,
    "optim.clipping_level.l2": _AT_LEAST_0,
    "optim.temperature.start": _ABOVE_0,
    "optim.temperature.end": _ABOVE_0,
    "predict.images": (
        lambda v: _TEXT[0](v) or (isinstance(v, tuple) and all(_TEXT[0](n) and n for n in v)),
        "a string, or a tuple of strings; a name that is a number needs a directory before it, as in ./7",
    ),
    "export.format": _one_of("packed", "c", "onnx", "qonnx", "stablehlo"),
    "export.path": _TEXT,
    "export.c_profile": _one_of("fast", "small"),
    "export.c_prefix": (
        lambda v: (
            isinstance(v, str)
            and v.lower() != "example"
            and re.fullmatch("[A-Za-z][A-Za-z0-9_]{0,62}", v, re.ASCII) is not None
        ),
        "a C identifier of at most 63 characters, and not example, as example.c is the example program",
    ),
    "bench.batch_sizes": (
        lambda v: (
            isinstance(v, tuple) and v != () and all(type(n) is int and 0 < n <= _MOST_BENCHED for n in v)
        ),
        f"a tuple of numbers of images, each from 1 to {_MOST_BENCHED}",
    ),
    "profile.steps": _integer(1, 1000),
    "bench.seconds": _number(lambda v: 0 < v <= 86_400, "a number > 0, at most 86400 (a day)"),
}


def flatten(config: ConfigDict | Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the fields of a config, or of one as it is saved in JSON, as `{"model.depth": 20, ...}`."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict | Mapping):
            fields |= flatten(value, f"{prefix}{name}.")
        else:
            fields[prefix + name] = value
    return fields


def unknown_field(name: str, what: str) -> str:
    """Returns a message about a dotted name that is no field, with the field that was probably meant; "" if it is one.

    Args:
      name: the name without "config."; a section, such as "optim", counts as a field.
      what: how the message calls it, such as "a field given as --config.FIELD".
    """
    fields = list(flatten(default_config()))
    sections = {name[:i] for name in fields for i, char in enumerate(name) if char == "."}
    if name in sections.union(fields):
        return ""
    section = name.rpartition(".")[0] + "."
    inside = {field.removeprefix(section): field for field in fields if field.startswith(section)}
    # Without its section, or with a misspelt one, a field is looked for by its whole name and by the last part of it.
    every = {field.rpartition(".")[2]: field for field in fields} | {field: field for field in fields}
    wanted, cutoff = (name.removeprefix(section), 0.5) if inside else (name, 0.7)
    close = difflib.get_close_matches(wanted, inside or every, 1, cutoff)
    if "[" in name:
        hint = "; a tuple is given whole, as in --config.model.act_bits='(2,2,4)'"
    elif close:
        hint = f". Did you mean {(inside or every)[close[0]]} instead of {name}?"
    else:
        hint = f"; the fields are {', '.join(inside.values() or fields)}"
    return f"{what} does not exist: {name}{hint}"


def from_json(saved: dict) -> ConfigDict:
    """Returns the config of a run from the JSON in its checkpoint.

    Fields newer than the run get their defaults, and fields that no longer exist are left out.
    """
    config = default_config()
    known = flatten(config)
    with config.ignore_type():
        for name, value in flatten(saved).items():
            if name in known:
                config.update_from_flattened_dict({name: tuple(value) if isinstance(value, list) else value})
    return config


def validate(config: ConfigDict) -> None:
    """Refuses unknown fields, missing fields and impossible values.

    Raises:
      ConfigError: the message names the field, its value, and what it may be.
    """
    fields = flatten(config)
    for name in fields:
        if name not in _RULES:
            raise ConfigError(f"config.{name} is not a field; the fields are {', '.join(_RULES)}")
    for name, (test, expected) in _RULES.items():
        if name not in fields:
            raise ConfigError(f"config.{name} is missing; start from qresnet_jax.config.default_config()")
        if not test(fields[name]):
            raise ConfigError(f"config.{name}={shown(fields[name])}: must be {expected}")
    _validate_model(config.model)
    _validate_streaming(config)
    _validate_processes(config)
    if config.steps_per_dispatch > config.log_every_steps:
        raise ConfigError(
            f"config.steps_per_dispatch={config.steps_per_dispatch}: must be at most "
            f"log_every_steps={config.log_every_steps}, since metrics are read between dispatches"
        )
    if config.optim.warmup_epochs >= config.num_epochs and config.optim.warmup_epochs > 0:
        raise ConfigError(
            f"config.optim.warmup_epochs={config.optim.warmup_epochs}: must be below num_epochs={config.num_epochs}"
        )


def _validate_streaming(config: ConfigDict) -> None:
    data = config.data
    if data.least_crop_area < 1 and not data.image_size:
        raise ConfigError(
            f"config.data.least_crop_area={data.least_crop_area}: random parts of images need config.data.image_size, the "
            "size that they are resized to"
        )
    if data.least_crop_area < 1 and data.streaming is False:
        raise ConfigError(
            f"config.data.least_crop_area={data.least_crop_area}: only streaming cuts out random parts: set "
            "config.data.streaming to auto or True, or config.data.least_crop_area to 1"
        )
    if data.streaming is True:
        validate_dispatch(config)


def validate_dispatch(config: ConfigDict) -> None:
    """Refuses several steps in a dispatch for a set that is streamed.

    Raises:
      ConfigError: there are several; the message says what to set.
    """
    if config.steps_per_dispatch > 1:
        raise ConfigError(
            f"config.steps_per_dispatch={config.steps_per_dispatch}: a streamed set has one batch for each dispatch: set it "
            "to 0 or 1, or config.data.streaming=False if the set fits into memory"
        )


def has_processes(config: ConfigDict) -> bool:
    """Returns whether a config asks for several processes that work together."""
    return config.distributed.auto or config.distributed.coordinator != ""


def _validate_processes(config: ConfigDict) -> None:
    """Refuses fields of `config.distributed` that do not fit together."""
    given = config.distributed
    coordinator, number, index = given.coordinator, given.num_processes, given.process_id
    named = f"config.distributed.coordinator={shown(coordinator)}"
    if given.auto:
        for name, is_set in (
            ("coordinator", coordinator != ""),
            ("num_processes", number != 1),
            ("process_id", index != -1),
        ):
            if is_set:
                raise ConfigError(
                    f"config.distributed.{name}={shown(given[name])}: leave it out, as config.distributed.auto=True "
                    "finds it out"
                )
    elif coordinator == "":
        for name, value, usual in (("num_processes", number, 1), ("process_id", index, -1)):
            if value != usual:
                raise ConfigError(
                    f"config.distributed.{name}={value}: needs config.distributed.coordinator=HOST:PORT, the address of "
                    "process 0, where all processes meet"
                )
    else:
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isascii() and port.isdigit() and 0 < int(port[:6]) < 2**16):
            raise ConfigError(f"{named}: must be HOST:PORT, with a port from 1 to {2**16 - 1}")
        if number == 1:
            raise ConfigError(
                f"{named}: needs config.distributed.num_processes, the number of all processes, at least 2"
            )
        if not 0 <= index < number:
            raise ConfigError(
                f"config.distributed.process_id={index}: must be from 0 to {number - 1}, another one in each process, "
                f"as config.distributed.num_processes={number}"
            )
    if has_processes(config) and config.parallel == "pmap":
        raise ConfigError("config.parallel='pmap': works in one process only; several need 'shard_map'")
    if config.batch_size % number:
        raise ConfigError(
            f"config.batch_size={config.batch_size}: must be a multiple of config.distributed.num_processes={number}, "
            "and of the number of all their devices"
        )


def _validate_model(model: ConfigDict) -> None:
    try:
        stages = architecture.blocks_per_stage(model.depth, model.block, model.stem)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from None
    if len(model.act_bits) != len(stages):
        raise ConfigError(
            f"config.model.act_bits={shown(model.act_bits)}: must have {len(stages)} entries, one per stage of this network"
        )
    _validate_sizes(model)
    if quantizer := registry.QUANTIZERS.get(model.activation):
        _validate_levels(model, quantizer)
    most = architecture.max_stem_weight_bits(model.stem, model.in_channels)
    if most < 2:
        raise ConfigError(
            f"config.model.in_channels={model.in_channels}: too many for the {model.stem} stem, whose integer sums "
            "must stay below 2**24"
        )
    if model.stem_weight_bits > most:
        raise ConfigError(
            f"config.model.stem_weight_bits={model.stem_weight_bits}: must be at most {most} with the {model.stem} "
            f"stem and {model.in_channels} channels, so that its integer sums stay below 2**24"
        )


def _validate_sizes(model: ConfigDict) -> None:
    weights = 9 * architecture.stage_widths(model.width, model.stem)[-1] ** 2
    if weights > _INT32:
        raise ConfigError(
            f"config.model.width={model.width}: a kernel of the {model.stem} stem's last stage would have {weights:,} "
            f"weights, but they are counted in int32, up to {_INT32:,}"
        )


def _validate_levels(model: ConfigDict, quantizer: registry.QuantizerInfo) -> None:
    bits = [n for n in model.act_bits if n != 32]
    if any(n > quantizer.most_bits for n in bits):
        raise ConfigError(
            f"config.model.act_bits={model.act_bits}: {model.activation} activations have 1 to "
            f"{quantizer.most_bits} bits"
        )
    widest = 9 * architecture.stage_widths(model.width, model.stem)[-1]
    largest = max((quantizer.max_level(n) for n in bits), default=0)
    if widest * largest >= SUM_LIMIT:
        raise ConfigError(
            f"config.model.act_bits={model.act_bits} gives {model.activation} levels up to {largest}: sums over "
            f"{widest} inputs reach 2**24 and are no longer exact; choose fewer bits or a smaller model.width"
        )


def validate_devices(config: ConfigDict, devices: int, processes: int = 1) -> None:
    """Refuses a batch size that is not a multiple of the number of devices, those of all processes together.

    Raises:
      ConfigError: the message names both numbers.
    """
    if config.batch_size % devices:
        raise ConfigError(
            f"config.batch_size={config.batch_size}: must be a multiple of the {devices} devices"
            + (f" of {processes} processes" if processes > 1 else "")
        )


def validate_dataset(config: ConfigDict, dataset: "ImageDataset | StreamedDataset") -> None:
    """Refuses a data set whose numbers of channels and classes are not those of the network, and too many steps.

    Raises:
      ConfigError: the message names the field and the value that the data set needs.
    """
    channels, classes = dataset.image_shape[-1], len(dataset.class_names)
    if config.model.in_channels != channels:
        raise ConfigError(
            f"config.model.in_channels={config.model.in_channels}: must be {channels} for {dataset.name}"
        )
    if config.model.num_classes != classes:
        raise ConfigError(
            f"config.model.num_classes={config.model.num_classes}: must be {classes} for {dataset.name}"
        )
    steps = config.num_epochs * -(-dataset.train.num_images // config.batch_size)
    if steps > _INT32:
        raise ConfigError(
            f"config.num_epochs={config.num_epochs}: the run would have {steps:,} steps, but they are counted in int32, "
            f"up to {_INT32:,}"
        )
