"""ResNet-20 with 1-bit weights and 2-bit activations on CIFAR-10-JPEG: the recipe of `cifar10_w1a2`.

    qresnet --config=cifar10_jpeg_w1a2

The images are those of CIFAR-10, stored as JPEG files (quality 75, 4:2:0) in the folders of an archive. That loses
detail, so accuracies are not comparable with those on CIFAR-10. `--config.data.raw_dir` says where the archive is.

Accuracy: 82.82 % on the test set, 83.74 % in validation, after 30 epochs with a warm-up of 0.3 epochs, 10 epochs in float and
a padding of 2 pixels, seed 0; 84.11 and 84.16 % if its float twin, trained in the same way, teaches it
(`optim.distillation.teacher`). Not measured with the longer recipe below. SGD reached 81.94 and 82.50 %.
Time: about 110 minutes for 30 epochs on one core; 82 minutes with the teacher on two, and 178 for the twin on one.
Hardware: 1 core of an Intel Xeon with AVX-512. Any CPU or GPU will do.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("cifar10_w1a2")
    config.data.name = "folder"
    config.data.raw_dir = "cifar10_jpeg.tar.xz"
    return config
