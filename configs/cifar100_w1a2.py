"""ResNet-20 with 1-bit weights and 2-bit activations on CIFAR-100: the recipe of `cifar10_w1a2`.

    qresnet --config=cifar100_w1a2

Accuracy: not measured yet.
Time: not measured yet.
Hardware: any CPU or GPU.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("cifar10_w1a2")
    config.data.name = "cifar100"
    config.model.num_classes = 100
    return config
