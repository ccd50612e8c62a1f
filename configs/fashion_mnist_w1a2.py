"""Fashion-MNIST, ResNet-20, 1-bit weights, 2-bit activations.

python main.py --config=configs/fashion_mnist_w1a2.py

Test accuracy 90.70 %, validation 91.20 % (one seed), in about 20 minutes on 2 cores that other work shared.
"""

from qresnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "fashion_mnist"
    config.data.crop_padding = 0  # six epochs are too few to gain from augmentation
    config.data.flip = False
    config.model.in_channels = 1
    config.batch_size = 64
    config.num_epochs = 6
    config.optim.learning_rate = 0.05
    return config
