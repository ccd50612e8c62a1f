"""ResNet-20 in float on CIFAR-10-JPEG: the float twin of `cifar10_jpeg_w1a2`. Only its weight decay is stronger.

    qresnet --config=cifar10_jpeg_fp32

Accuracy: 86.46 % on the test set, 86.70 % in validation, after 30 epochs with a warm-up of 0.3 epochs and a padding of
2 pixels, seed 0; not measured with the longer recipe. SGD with a padding of 4 pixels reached 85.79 and 87.48 %.
Time: 178 minutes for 30 epochs on one core, which did other work as well.
Hardware: 1 core of an Intel Xeon with AVX-512. Any CPU or GPU will do.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("cifar10_jpeg_w1a2")
    config.model.weight_bits = 32
    config.model.activation = "none"
    config.optim.weight_decay = 5e-4
    config.optim.float_epochs = 0
    return config
