"""ResNet-20 with 1-bit weights and 2-bit activations on CIFAR-10: the original script's recipe, which ours must beat.

    qresnet --config=cifar10_baseline

Accuracy: not measured yet. The published accuracy of the original script is 87.37 %, on the test set at its best epoch.
Time: not measured yet.
Hardware: any CPU or GPU.

As in the original, the hysteresis threshold is absolute and the clipping levels are fixed.
"""

from qresnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.model.activation = "fixed"
    config.optim.learning_rate = 0.1
    config.optim.schedule = "step"
    config.optim.hysteresis.threshold = 0.1
    config.optim.hysteresis.relative = False
    return config
