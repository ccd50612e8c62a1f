"""Defines all config fields and their defaults."""

import difflib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, FieldReference

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

    config.distributed = ConfigDict()  # several processes that train one network, see docs/processes.md
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
    # Of a folder: whether files that cannot be decoded are left out, or else refused.
    config.data.skip_broken = False
    # The fraction of train that is kept for validation. 0: no validation, and the last checkpoint is the result.
    config.data.holdout = 0.1
    config.data.crop_padding = 4  # pixels added on each side before a random crop; 0: no crop
    # Training resizes a random part of each image that has at least this fraction of its area; 1: the middle square.
    config.data.least_crop_area = 1.0
    config.data.flip = True  # whether half of the images are flipped left to right, at random
    # Whether the images are read from the disk while training runs, or else held in memory; "auto": by their size. Its
    # type is object, so that it can be set to both.
    config.data.streaming = FieldReference("auto", field_type=object)
    # The number of processes that decode streamed images. -1: by the number of processors; 0: none.
    config.data.workers = -1

    config.model = ConfigDict()
    # Or "vgg_small", "mlp", "mobilenet", or FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION, see docs/own_networks.md.
    config.model.name = "resnet"
    config.model.depth = 20  # of a ResNet: the number of layers with weights, as in ResNet-20
    config.model.width = 1  # factor on the number of channels; of a vgg_small in eighths
    # Of a ResNet; or "bottleneck", "preact_basic", "preact_bottleneck", "bireal".
    config.model.block = "basic"
    config.model.stem = "cifar"  # of a ResNet; or "imagenet"
    config.model.in_channels = 3
    config.model.image_size = (32, 32)  # height and width, for networks with dense layers: vgg_small and mlp
    config.model.num_classes = 10
    config.model.weight_bits = 1  # or 32: float weights
    config.model.weight_scale = "layer"  # one scale for each layer, or "channel": for each output channel
    config.model.act_bits = (2, 2, 2)  # for each stage 1 to 8, or 32 for float
    config.model.activation = "pact"  # the quantizer of the activations; "none": float activations
    config.model.stem_weight_bits = 11
    config.model.stream_fraction_bits = 8  # of the residual stream's grid
    config.model.sync_bn = True  # batch norm over the images of all devices; False: over each device's own

    config.optim = ConfigDict()
    config.optim.name = "sgd"  # or "adamw"; or "muon", which is SGD but for the kernels inside the network
    config.optim.learning_rate = 0.1
    config.optim.momentum = 0.9
    config.optim.weight_decay = 0.0  # not applied to batch norm and clipping levels
    config.optim.schedule = "cosine"  # falls to 0; or "step", divided by 10 at 30, 60 and 90 %; or "constant"
    config.optim.warmup_epochs = 0.0  # epochs in which the learning rate rises linearly from 0
    # The first epochs, in which weights and activations are float; the rest of num_epochs trains the quantized network.
    config.optim.float_epochs = 0
    # A factor on the learning rate of latent weights once the weights are binary.
    config.optim.latent_rate = 1.0
    config.optim.label_smoothing = 0.0
    config.optim.gradient_clip = 0.0  # the largest global norm of the gradients; 0: no limit
    config.optim.muon = ConfigDict()  # of the kernels between first layer and classifier
    config.optim.muon.learning_rate = 0.03
    config.optim.muon.momentum = 0.95
    config.optim.hysteresis = ConfigDict()
    # A sign flips only when the latent weight has reached the threshold on the other side. 0: no hysteresis.
    config.optim.hysteresis.threshold = 0.0
    config.optim.hysteresis.relative = True  # the threshold is in units of the layer's mean |latent weight|
    config.optim.clipping_level = ConfigDict()
    config.optim.clipping_level.learning_rate = 0.01
    config.optim.clipping_level.l2 = 1e-4  # the weight of their L2 penalty
    config.optim.distillation = ConfigDict()  # learning from a trained network as well
    config.optim.distillation.teacher = ""  # the workdir of its run; "": there is none
    config.optim.distillation.weight = 0.5  # its share of the loss; the labels have the rest
    config.optim.distillation.temperature = 2.0  # divides both networks' logits
    config.optim.temperature = ConfigDict()  # of the sigmoid activation, over the training
    config.optim.temperature.start = 1.0
    config.optim.temperature.end = 10.0

    config.predict = ConfigDict()
    # For --mode=predict: image files, directories of them, or patterns such as photos/*.png, separated by commas; or a
    # tuple of them. Its type is object, so that it can be set to both.
    config.predict.images = FieldReference("", field_type=object)

    config.export = ConfigDict()
    config.export.format = "packed"  # for --mode=export; or "c", "onnx", "qonnx", "stablehlo", "wasm"
    # The file, or directory for "c" and "wasm", to write; "": in WORKDIR, named by the format.
    config.export.path = ""
    config.export.c_profile = "fast"  # or "small", which prefers small tables to speed
    config.export.c_layout = "pair"  # a header and a source file; or "header", both in one header
    config.export.c_prefix = "model"  # begins the names of the C files, functions and, in upper case, macros

    config.bench = ConfigDict()  # for --mode=bench
    config.bench.batch_sizes = (1, 16, 128)
    config.bench.seconds = 1.0  # for each engine and batch size

    config.profile = ConfigDict()  # for --mode=profile
    config.profile.steps = 10  # training steps under the profiler; a trace of 1,000 steps may take gigabytes
    return config


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
    # Without its section, or with a misspelt one, a field is looked for by its whole name and by the last part of it, which
    # is taken for the field in the fewest sections.
    deepest_first = sorted(fields, key=lambda field: field.count("."), reverse=True)
    every = {field.rpartition(".")[2]: field for field in deepest_first} | {field: field for field in fields}
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
