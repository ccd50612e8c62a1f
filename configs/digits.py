"""1-bit weights, 2-bit activations on scikit-learn's 8x8 digits: the embedded default, no download.

python main.py --config=configs/digits.py

Test accuracy 97.4 % on average over 5 seeds, standard deviation 0.7, in about a minute on 2 cores.
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
