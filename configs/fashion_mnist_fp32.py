"""ResNet-20 in float on Fashion-MNIST: the float twin of `fashion_mnist_w1a2`. Only its weight decay is stronger.

    qresnet --config=fashion_mnist_fp32

Accuracy: 93.77 % on the test set, 94.63 % in validation, seed 0.
Time: 40 minutes on one core, which did other work as well.
Hardware: 1 core of an Intel Xeon with AVX-512. Any CPU or GPU will do.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("fashion_mnist_w1a2")
    config.model.weight_bits = 32
    config.model.activation = "none"
    config.optim.weight_decay = 5e-4
    config.optim.float_epochs = 0
    return config
