"""Refuses configs with impossible values, or with fields that do not fit together, the data set or the devices."""

import pathlib
from typing import TYPE_CHECKING

from ml_collections import ConfigDict

from qresnet_jax import pixels
from qresnet_jax.config.fields import flatten
from qresnet_jax.config.rules import INT32, RULES
from qresnet_jax.errors import ConfigError, shown
from qresnet_jax.models import architecture
from qresnet_jax.quantize import registry
from qresnet_jax.quantize.exact import MOST_FEATURES, SUM_LIMIT

if TYPE_CHECKING:
    from qresnet_jax.data import ImageDataset, StreamedDataset


def validate(config: ConfigDict) -> None:
    """Refuses unknown fields, missing fields and impossible values.

    Raises:
      ConfigError: the message names the field, its value, and what it may be.
    """
    fields = flatten(config)
    for name in fields:
        if name not in RULES:
            raise ConfigError(f"config.{name} is not a field; the fields are {', '.join(RULES)}")
    for name, (test, expected) in RULES.items():
        if name not in fields:
            raise ConfigError(f"config.{name} is missing; start from qresnet_jax.config.default_config()")
        if not test(fields[name]):
            raise ConfigError(f"config.{name}={shown(fields[name])}: must be {expected}")
    if own := architecture.own_parts(config.model.name):
        _validate_own(config, *own)
    else:
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
    if config.optim.float_epochs:
        _validate_float_epochs(config)
    if config.remat != "none" and config.model.name != architecture.RESNET:
        raise ConfigError(
            f"config.model.name={config.model.name!r}: only a ResNet of this package can: set config.remat to none"
        )


def _validate_own(config: ConfigDict, source: str, function: str) -> None:
    """Refuses what a network of the user's own cannot have; whether it can be built is known when it is."""
    named = f"config.model.name={config.model.name!r}"
    path = pathlib.Path(source).expanduser()
    if source.endswith(".py") and not path.is_file():
        raise ConfigError(
            f"{named}: there is no file {path.absolute()}: give FILE.py:{function} or PACKAGE.MODULE:{function}"
        )
    if config.optim.float_epochs:
        raise ConfigError(
            f"{named}: only a network of this package has a float twin: set config.optim.float_epochs to 0"
        )


def _validate_float_epochs(config: ConfigDict) -> None:
    named = f"config.optim.float_epochs={config.optim.float_epochs}"
    if architecture.is_float(config.model):
        raise ConfigError(f"{named}: this network is float in all epochs, so set it to 0")
    if config.optim.float_epochs >= config.num_epochs:
        raise ConfigError(
            f"{named}: must be below num_epochs={config.num_epochs}, which counts all epochs, as the rest of them trains "
            "the quantized network"
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
        stages = architecture.number_of_act_bits(model)
    except ValueError as error:
        raise ConfigError(f"config.{error}") from None
    if not model.act_bits or stages not in (None, len(model.act_bits)):
        raise ConfigError(
            f"config.model.act_bits={shown(model.act_bits)}: must have {stages or 'some'} entries, one per stage of this "
            "network"
        )
    _validate_sizes(model)
    if model.name in architecture.OF_ONE_SIZE:
        _validate_image_size(model)
    if quantizer := registry.QUANTIZERS.get(model.activation):
        _validate_levels(model, quantizer)
    if model.name == "mlp":  # whose first layer has as many bits as are exact
        return
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
    weights = architecture.largest_kernel(model)
    if weights > INT32:
        raise ConfigError(
            f"config.model.width={model.width}: a kernel of the last stage would have {weights:,} weights, but they are "
            f"counted in int32, up to {INT32:,}"
        )


def _validate_image_size(model: ConfigDict) -> None:
    """Refuses images that the dense layers of a network in `OF_ONE_SIZE` cannot take; float layers take all."""
    (height, width), stride = model.image_size, architecture.VGG_STRIDE
    named = f"config.model.image_size={tuple(model.image_size)}"
    is_integer = architecture.has_integer_form(model)
    if model.name == "vgg_small":
        if min(height, width) < stride:
            raise ConfigError(
                f"{named}: must be at least {stride} pixels high and wide, as the pools of vgg_small divide both by {stride}"
            )
        features = (height // stride) * (width // stride) * architecture.vgg_widths(model.width)[-1]
        if is_integer and features > MOST_FEATURES:
            raise ConfigError(
                f"{named}: gives the classifier of vgg_small {features:,} features, but in integers it takes at most "
                f"{MOST_FEATURES:,}: choose smaller images (config.data.image_size) or a smaller config.model.width"
            )
        return
    values, most = height * width * model.in_channels, (SUM_LIMIT - 1) // pixels.LARGEST
    if is_integer and values > most:
        raise ConfigError(
            f"{named}: gives the first layer of mlp {values:,} pixel values, but its sums are exact only up to {most:,}: "
            "choose smaller images (config.data.image_size)"
        )


def _validate_levels(model: ConfigDict, quantizer: registry.QuantizerInfo) -> None:
    bits = [n for n in model.act_bits if n != 32]
    if any(n > quantizer.most_bits for n in bits):
        raise ConfigError(
            f"config.model.act_bits={model.act_bits}: {model.activation} activations have 1 to "
            f"{quantizer.most_bits} bits"
        )
    widest = architecture.most_taps(model)
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
    name, size = config.model.name, dataset.image_shape[:2]
    if name in architecture.OF_ONE_SIZE and config.model.image_size != tuple(size):
        raise ConfigError(
            f"config.model.image_size={config.model.image_size}: must be {tuple(size)} for {dataset.name}, as {name} has dense layers"
        )
    steps = config.num_epochs * -(-dataset.train.num_images // config.batch_size)
    if steps > INT32:
        raise ConfigError(
            f"config.num_epochs={config.num_epochs}: the run would have {steps:,} steps, but they are counted in int32, "
            f"up to {INT32:,}"
        )
