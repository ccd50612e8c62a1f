"""CIFAR-10, ResNet-20 in float: the twin of `cifar10_w1a2.py`, everything else equal but a stronger weight decay.

python main.py --config=configs/cifar10_fp32.py
"""

from configs import cifar10_w1a2


def get_config():
    config = cifar10_w1a2.get_config()
    config.model.weight_bits = 32
    config.model.activation = "none"
    config.optim.weight_decay = 5e-4
    return config
