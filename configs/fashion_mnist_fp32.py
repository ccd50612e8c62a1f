"""ResNet-20 in float on Fashion-MNIST: the float twin of `fashion_mnist_w1a2`. Only its weight decay is stronger.

    qresnet --config=fashion_mnist_fp32

Accuracy: not measured yet.
Time: not measured yet.
Hardware: any CPU or GPU.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("fashion_mnist_w1a2")
    config.model.weight_bits = 32
    config.model.activation = "none"
    config.optim.weight_decay = 5e-4
    config.optim.float_epochs = 0
    return config
