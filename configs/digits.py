"""ResNet-8 with 1-bit weights and 2-bit activations on scikit-learn's 8x8 digits. Needs no download.

    qresnet --config=digits

Accuracy: 97.00 % on the test set, the mean of the seeds 0 to 4; the standard deviation is 0.66 points, the worst 96.39 %.
Time: about a minute.
Hardware: 2 CPU cores.
"""

from qresnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "digits"
    config.data.crop_padding = 1
    config.data.flip = False
    config.model.depth = 8
    config.model.in_channels = 1
    config.batch_size = 64
    config.num_epochs = 60
    config.log_every_steps = 21
    config.checkpoint_every_epochs = 10
    return config
