"""ResNet-34 with 1-bit weights and 2-bit activations on ImageNet, which is streamed from the disk.

    qresnet --config=imagenet_resnet34_w1a2

ImageNet cannot be downloaded freely: `tfds build imagenet2012 --file_format=array_record` prepares it in `--config.data.data_dir`
from the archives of its authors. Training sees random parts of the images, and validation and test their middle, all resized
to 224x224 pixels.

Accuracy: not measured yet.
Time: not measured yet.
Hardware: one or several GPUs or TPUs, with a processor for every few hundred images a second.
"""

from qresnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "imagenet2012"
    config.data.holdout = 0.01
    config.data.image_size = 224
    config.data.least_crop_area = 0.08
    config.data.crop_padding = 0
    config.batch_size = 256
    config.num_epochs = 100
    config.dtype = "bfloat16"
    config.model.depth = 34
    config.model.stem = "imagenet"
    config.model.stem_weight_bits = 8
    config.model.act_bits = (2, 2, 2, 2)
    config.model.num_classes = 1000
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 5.0
    config.optim.weight_decay = 1e-4
    return config
