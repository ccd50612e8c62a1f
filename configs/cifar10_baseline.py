"""CIFAR-10, ResNet-20, 1-bit weights, 2-bit activations: the original script's recipe, as a floor for ours.

python main.py --config=configs/cifar10_baseline.py

The published figure of the original is 87.37 % (best epoch on the test set). Ours is not measured yet: CIFAR-10 cannot be had
offline. The hysteresis is the original's absolute loop, the clipping its fixed one.
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
