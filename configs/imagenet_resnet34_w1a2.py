"""ResNet-34 with 1-bit weights and 2-bit activations on ImageNet: the recipe of `imagenet_resnet18_w1a2`.

    qresnet --config=imagenet_resnet34_w1a2

ImageNet cannot be downloaded freely: `tfds build imagenet2012 --file_format=array_record` prepares it in `--config.data.data_dir`
from the archives of its authors. Training sees random parts of the images, and validation and test their middle, all resized
to 224x224 pixels.

Accuracy: not measured yet.
Time: not measured yet.
Hardware: one or several GPUs or TPUs, with a processor for every few hundred images a second.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("imagenet_resnet18_w1a2")
    config.model.depth = 34
    return config
