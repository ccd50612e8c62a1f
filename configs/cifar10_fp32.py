"""CIFAR-10, ResNet-20 in float: the twin of `cifar10_w1a2.py`, everything else equal but a stronger weight decay.

python main.py --config=configs/cifar10_fp32.py

Not measured yet: CIFAR-10 cannot be had offline. The original's float figure is 91.78 %.
"""

from configs import cifar10_w1a2


def get_config():
    config = cifar10_w1a2.get_config()
    config.model.weight_bits = 32
    config.model.activation = "none"
    config.optim.weight_decay = 5e-4
    return config
