"""ResNet-20 with 1-bit weights and 2-bit activations on CIFAR-10: our recipe, which is float in the first half.

    qresnet --config=cifar10_w1a2

Accuracy: not measured yet. It must beat `cifar10_baseline`.
Time: not measured yet.
Hardware: any CPU or GPU.
"""

from qresnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "cifar10"
    config.num_epochs = 400
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 5.0
    config.optim.weight_decay = 1e-4
    config.optim.float_epochs = config.get_oneway_ref("num_epochs") // 2  # follows num_epochs
    config.optim.name = "muon"
    config.checkpoint_every_epochs = 5
    return config
