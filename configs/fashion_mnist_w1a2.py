"""ResNet-20 with 1-bit weights and 2-bit activations on Fashion-MNIST: the recipe of `cifar10_w1a2` for 10 epochs.

    qresnet --config=fashion_mnist_w1a2

Accuracy: 91.98 % on the test set, 92.98 % in validation, seed 0; with half of the loss from the float twin
(`--config.optim.distillation.teacher=runs/fashion_mnist_fp32`), 92.64 and 93.32 %. SGD without float epochs reached 92.50 % on the
test set after 25 epochs, the mean of the seeds 0 to 2 with a standard deviation of 0.03 points.
Time: 54 minutes on one core, and 70 with a teacher; the core did other work as well.
Hardware: 1 core of an Intel Xeon with AVX-512. Any CPU or GPU will do.
"""

from qresnet_jax import load_config


def get_config():
    config = load_config("cifar10_w1a2")
    config.data.name = "fashion_mnist"
    config.data.crop_padding = 2
    config.model.in_channels = 1
    config.num_epochs = 10
    config.optim.warmup_epochs = 0.3
    config.checkpoint_every_epochs = 1
    return config
