"""ResNet-20 in float on Fashion-MNIST: the float twin of `fashion_mnist_w1a2`, with everything else equal.

    qresnet --config=fashion_mnist_fp32

Accuracy: 93.11 % on the test set, 93.48 % in validation, with seed 0; the spread over seeds is not measured yet.
Time: about 20 minutes, on a machine that did other work as well.
Hardware: 2 cores of an AMD EPYC (Zen 4).
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("fashion_mnist_w1a2")
    config.model.weight_bits = 32
    config.model.activation = "none"
    return config
