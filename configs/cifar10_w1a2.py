"""CIFAR-10, ResNet-20, 1-bit weights, 2-bit activations: our recipe.

python main.py --config=configs/cifar10_w1a2.py

Not measured yet: CIFAR-10 cannot be had offline. It must beat `cifar10_baseline.py`.
"""

from qresnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.num_epochs = 400
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 5.0
    config.optim.weight_decay = 1e-4
    config.checkpoint_every_epochs = 5
    return config
