"""Describes a run before it trains: its devices, its data, and its network with the cost of each layer."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from qresnet_jax import config as configs
from qresnet_jax.data import ImageDataset, StreamedDataset
from qresnet_jax.models.architecture import RESNET
from qresnet_jax.ship.costs import LayerCost, as_text, layer_table
from qresnet_jax.ship.fold import fold_traced, why_float
from qresnet_jax.train.processes import Processes

log = logging.getLogger("qresnet_jax")


def costs_of_layers(model: nnx.Module, dataset: ImageDataset | StreamedDataset) -> list[LayerCost]:
    """Returns the cost of each layer, as it ships if the network has an integer form."""
    height, width, channels = dataset.image_shape
    shape = (height, width, channels)
    if why_float(model):
        return layer_table(model, shape)
    folded = fold_traced(
        model, mean=dataset.mean, class_names=dataset.class_names, image_shape=(height, width)
    )
    return layer_table(model, shape, folded)


def identity_of(
    dataset: ImageDataset | StreamedDataset, meta: Mapping[str, Any], *, with_checksum: bool
) -> dict[str, object]:
    """Returns what tells whether several processes have the same images.

    Args:
      dataset: the data set of this process.
      meta: what this process will save with its checkpoints: all of it but the config describes the data.
      with_checksum: whether the images themselves are read for it.
    """
    lengths = {
        f"the number of {name} images": split.num_images
        for name, split in (
            ("train", dataset.train),
            ("validation", dataset.validation),
            ("test", dataset.test),
        )
        if split is not None
    }
    about = {f"the {name} of the data set": value for name, value in meta.items() if name != "config"}
    if with_checksum:
        about["the checksum of the data set"] = dataset.checksum()
    return {"the kind of the data set": type(dataset).__name__} | lengths | about


def log_description(
    config: ConfigDict,
    dataset: ImageDataset | StreamedDataset,
    layers: Sequence[LayerCost],
    mesh: Mesh,
    processes: Processes,
) -> None:
    """Logs fields without effect, the devices, the data, the network, and the cost of each of its layers."""
    fields = configs.flatten(config)
    for name, need in configs.unused_fields(config).items():
        log.info("config.%s=%s has no effect without %s", name, fields[name], need)
    kind = mesh.devices.flat[0].device_kind
    validation = dataset.validation.num_images if dataset.validation else 0
    how = "over all devices" if config.model.sync_bn else "on each device alone"
    of = f" of {processes.count} processes" if processes.count > 1 else ""
    log.info("devices: %d x %s%s, %s, batch norm %s", mesh.size, kind, of, config.parallel, how)
    log.info(
        "data: %s, %d train, %d validation, %d test images of %s",
        dataset.name,
        dataset.train.num_images,
        validation,
        dataset.test.num_images,
        "x".join(map(str, dataset.image_shape)),
    )
    bits = f"{config.model.weight_bits}-bit weights, {config.model.activation} activations"
    if config.model.activation != "none":
        bits += f" of {'/'.join(map(str, config.model.act_bits))} bits"
    log.info(
        "network: %s, %s; its size before training\n\n%s",
        f"ResNet-{config.model.depth}" if config.model.name == RESNET else config.model.name,
        bits,
        as_text(layers),
    )
    what = "the integer network that ships"
    if all(layer.packed_bytes is None for layer in layers):
        what = "the float network, as float weights or activations have no integer form"
    log.info("validation and test measure %s", what)
