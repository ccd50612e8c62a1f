"""ResNet-20 in float on CIFAR-10: the float twin of `cifar10_w1a2`, with a stronger weight decay and everything else equal.

    qresnet --config=cifar10_fp32

Accuracy: not measured yet. The original script's published float figure is 91.78 %.
Time: not measured yet.
Hardware: any CPU or GPU.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("cifar10_w1a2")
    config.model.weight_bits = 32
    config.model.activation = "none"
    config.optim.weight_decay = 5e-4
    return config
