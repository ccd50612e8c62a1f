"""MLPerf Tiny's image classifier, ResNet-8, with 1-bit weights and 2-bit activations on CIFAR-10.

    qresnet --config=cifar10_resnet8_w1a2

The network of MLPerf Tiny's benchmark IC01 (mlcommons/tiny) has 77,706 parameters with biases in its convolutions; this one has
77,850 and six clipping levels. Its int8 file there has 98,496 bytes, and its target is 85 %.

Accuracy: not measured yet, as CIFAR-10 itself was not available here. docs/recipes.md has ResNet-8 on CIFAR-10-JPEG.
Time: not measured yet.
Hardware: any CPU or GPU.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("cifar10_w1a2")
    config.model.depth = 8
    return config
