"""CIFAR-100, ResNet-20, 1-bit weights, 2-bit activations: the recipe of `cifar10_w1a2.py`.

python main.py --config=configs/cifar100_w1a2.py

Not measured yet: CIFAR-100 cannot be had offline.
"""

from configs import cifar10_w1a2


def get_config():
    config = cifar10_w1a2.get_config()
    config.data.name = "cifar100"
    config.model.num_classes = 100
    return config
