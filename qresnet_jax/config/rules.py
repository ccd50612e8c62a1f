"""What each config field may be, whatever the others are."""

import math
import re
import struct
from collections.abc import Callable
from typing import Any

from qresnet_jax.models import architecture
from qresnet_jax.quantize import registry
from qresnet_jax.quantize.exact import SUM_LIMIT

_Check = tuple[Callable[[Any], bool], str]  # a test of a field's value, and what is expected of it


# Numbers that do not fit the types that they are computed in would become others without a word: a seed of 2**32 is
# the seed 0 to JAX.
INT32 = 2**31 - 1
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
_SHARE = _number(lambda v: 0 < _in_float32(v) <= 1, "above 0 and at most 1, also when rounded to float32")
_TEXT = (lambda v: isinstance(v, str) and "\0" not in v, "a string")
_FLAG = (lambda v: isinstance(v, bool), "True or False")
_BITS = (
    lambda v: (
        isinstance(v, tuple) and all(type(b) is int and (1 <= b <= registry.MOST_BITS or b == 32) for b in v)
    ),
    f"a tuple with one entry per stage, each 1 to {registry.MOST_BITS} bits, or 32 for float",
)
_OWN = r"([^\0]+\.py|[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):[A-Za-z_]\w*"
_MOST_BENCHED = 2**16  # images
_MOST_PROCESSES = 2**16
_DAY = 24 * 60 * 60  # seconds

RULES = {
    "seed": _integer(0, _UINT32),
    "batch_size": _integer(1, SUM_LIMIT),  # images are counted in float32
    "num_epochs": _integer(1, INT32),  # and all steps together, see validate_dataset
    "log_every_steps": _integer(1, INT32),
    "checkpoint_every_epochs": _integer(1, INT32),
    "steps_per_dispatch": _integer(0, INT32),
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
    "model.name": (
        lambda v: isinstance(v, str) and (v in architecture.NAMES or re.fullmatch(_OWN, v) is not None),
        f"{', '.join(architecture.NAMES)}, or a network of your own as FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION",
    ),
    "model.depth": _integer(1, 10_000),
    "model.width": _integer(1, 1024),  # see also _validate_sizes
    "model.block": _one_of(*architecture.BLOCKS),
    "model.stem": _one_of(*architecture.STEMS),
    "model.in_channels": _integer(1, 4096),
    "model.image_size": (
        lambda v: isinstance(v, tuple) and len(v) == 2 and all(type(n) is int and 1 <= n < 2**16 for n in v),
        "a height and a width, such as (32, 32)",
    ),
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
    "optim.name": _one_of("sgd", "adamw", "muon"),
    "optim.learning_rate": _ABOVE_0,
    "optim.momentum": _BELOW_1,
    "optim.weight_decay": _AT_LEAST_0,
    "optim.schedule": _one_of("cosine", "step", "constant"),
    "optim.warmup_epochs": _AT_LEAST_0,
    "optim.float_epochs": _integer(0, INT32),
    "optim.latent_rate": _ABOVE_0,
    "optim.label_smoothing": _BELOW_1,
    "optim.gradient_clip": _AT_LEAST_0,
    "optim.muon.learning_rate": _ABOVE_0,
    "optim.muon.momentum": _BELOW_1,
    "optim.hysteresis.threshold": _AT_LEAST_0,
    "optim.hysteresis.relative": _FLAG,
    "optim.clipping_level.learning_rate": _AT_LEAST_0,
    "optim.clipping_level.l2": _AT_LEAST_0,
    "optim.distillation.teacher": _TEXT,
    "optim.distillation.weight": _SHARE,
    "optim.distillation.temperature": _ABOVE_0,
    "optim.temperature.start": _ABOVE_0,
    "optim.temperature.end": _ABOVE_0,
    "predict.images": (
        lambda v: _TEXT[0](v) or (isinstance(v, tuple) and all(_TEXT[0](n) and n for n in v)),
        "a string, or a tuple of strings; a name that is a number needs a directory before it, as in ./7",
    ),
    "export.format": _one_of("packed", "c", "onnx", "qonnx", "stablehlo", "wasm"),
    "export.path": _TEXT,
    "export.c_profile": _one_of("fast", "small"),
    "export.c_layout": _one_of("pair", "header"),
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
