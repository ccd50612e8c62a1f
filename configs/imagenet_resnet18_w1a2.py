"""ResNet-18 with 1-bit weights and 2-bit activations on ImageNet. It cannot be trained yet.

    qresnet --config=imagenet_resnet18_w1a2

This command ends with a message: ImageNet must be streamed and its images resized, which the data path cannot do yet. The
config describes the network and the schedule.

Accuracy: not measured yet.
Time: not measured yet.
Hardware: not known yet.
"""

from qresnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "imagenet2012"
    config.data.holdout = 0.01
    config.data.crop_padding = 0
    config.batch_size = 256
    config.num_epochs = 100
    config.dtype = "bfloat16"
    config.model.depth = 18
    config.model.stem = "imagenet"
    config.model.stem_weight_bits = 8
    config.model.act_bits = (2, 2, 2, 2)
    config.model.num_classes = 1000
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 5.0
    config.optim.weight_decay = 1e-4
    return config
