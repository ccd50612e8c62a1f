"""ResNet-20 with 1-bit weights and 2-bit activations on CIFAR-10-JPEG: the recipe of `cifar10_w1a2`.

    qresnet --config=cifar10_jpeg_w1a2

The images are those of CIFAR-10, stored as JPEG files (quality 75, 4:2:0) in the folders of an archive. That loses
detail, so accuracies are not comparable with those on CIFAR-10. `--config.data.raw_dir` says where the archive is.

Accuracy: not measured yet. Published trainings reach 2 to 3 points less than on CIFAR-10.
Time: not measured yet.
Hardware: any CPU or GPU.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("cifar10_w1a2")
    config.data.name = "folder"
    config.data.raw_dir = "cifar10_jpeg.tar.xz"
    return config
