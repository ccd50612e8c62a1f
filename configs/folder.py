"""ResNet-20 with 1-bit weights and 2-bit activations on your own images: a folder, or a tar or zip archive of it.

    qresnet --config=folder

The images lie in images/train/CLASS/ and images/test/CLASS/ below the current directory; `--config.data.raw_dir=DIR` names
another place. All of them are resized to 32x32 pixels. With other numbers than 10 classes and 3 channels, the command says
which fields to set.

Accuracy: depends on the images.
Time: not measured yet.
Hardware: any CPU or GPU.
"""

from qresnet_jax.config import default_config


def get_config():
    config = default_config()
    config.data.name = "folder"
    config.data.raw_dir = "images"
    config.data.image_size = 32
    config.num_epochs = 100
    config.optim.warmup_epochs = 2.0
    config.optim.weight_decay = 1e-4
    return config
